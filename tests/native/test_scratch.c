/* Memory of one request: large memory goes back to the system. */
#include <sys/mman.h>

#include "rig.h"

static bool mapped(u8 *memory)
{
	unsigned char in_core;
	return mincore((void *)((uintptr_t)memory & ~(uintptr_t)4095), 4096, &in_core) == 0;
}

TEST(check_memory_of_any_size_and_large_memory_goes_back)
{
	static const size_t sizes[] = {1, 1000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20, 5 << 20};
	for (size_t k = 0; k < sizeof(sizes) / sizeof(*sizes); k++) {
		u8 *memory = pc_scratch_new(sizes[k]), *last = memory + sizes[k] - 1;
		CHECK(memory);
		EQUAL((uintptr_t)memory % 16, 0);
		for (size_t b = 0; b < sizes[k]; b++)
			memory[b] = first_byte(b);
		for (size_t b = 0; b < sizes[k]; b++)
			EQUAL(memory[b], first_byte(b));
		CHECK(mapped(memory) && mapped(last));
		pc_scratch_free(memory);
		if (sizes[k] == 5 << 20) /* an allocator would keep it for the thread that freed it */
			CHECK(!mapped(memory) && !mapped(last));
	}
	pc_scratch_free(NULL);
	CHECK(!pc_scratch_new((size_t)1 << 60));
}
