/* Memory of one request: large memory goes back to the system. */
#include <sys/mman.h>

#include "rig.h"

enum { SMALL = 1000, LARGE = 5 << 20 };

static u8 byte_of(size_t k)
{
	return (u8)(k * 31 + k / 256 + 3);
}

static void fill(u8 *memory, size_t from, size_t to)
{
	for (size_t k = from; k < to; k++)
		memory[k] = byte_of(k);
}

static void same(const u8 *memory, size_t size)
{
	for (size_t k = 0; k < size; k++)
		EQUAL(memory[k], byte_of(k));
}

TEST(check_memory_of_any_size)
{
	static const size_t sizes[] = {1, SMALL, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, LARGE};
	for (size_t k = 0; k < sizeof(sizes) / sizeof(*sizes); k++) {
		u8 *memory = pc_scratch_new(sizes[k]);
		CHECK(memory);
		EQUAL((uintptr_t)memory % 16, 0);
		fill(memory, 0, sizes[k]);
		same(memory, sizes[k]);
		pc_scratch_free(memory);
	}
	pc_scratch_free(NULL);
	CHECK(!pc_scratch_new((size_t)1 << 60));
}

static bool mapped(u8 *memory)
{
	unsigned char in_core;
	return mincore((void *)((uintptr_t)memory & ~(uintptr_t)4095), 4096, &in_core) == 0;
}

/* An allocator would keep it for the thread that freed it. */
TEST(check_large_memory_goes_back_to_the_system)
{
	for (int k = 0; k < 3; k++) {
		u8 *memory = pc_scratch_new(LARGE);
		fill(memory, 0, LARGE);
		CHECK(mapped(memory) && mapped(memory + LARGE - 1));
		pc_scratch_free(memory);
		CHECK(!mapped(memory) && !mapped(memory + LARGE - 1));
	}
}
