/* Frames, pools, memory of one request: the buddy allocator against a plain array of owners, its bounds, reuse. */
#include <sys/mman.h>

#include "check.h"

enum { FRAMES = 4096 };

static struct pc_arena arena_of(u64 frames)
{
	struct pc_arena a;
	EQUAL(pc_arena_init(&a, frames * PAGE, 12, 64ull << 30), 0);
	return a;
}

static void arena_sound(struct pc_arena *a)
{
	struct pc_violation v;
	if (!pc_arena_check(a, &v))
		check_failed(__FILE__, __LINE__, v.text, 0, 0);
}

TEST(check_random_use_of_all_orders_matches_a_model)
{
	static u8 owner[FRAMES];
	static struct {
		u32 frame, order;
	} held[FRAMES];
	struct pc_arena a = arena_of(FRAMES);
	u32 n = 0, used = 0;
	memset(owner, 0, sizeof(owner));
	for (int step = 0; step < 60000; step++) {
		if (draw(100) < (step / 6000 % 2 ? 40 : 60)) {
			u32 order = (u32)(draw(2) ? 0 : draw(PC_ORDERS)), frame = pc_arena_alloc(&a, order);
			if (frame == PC_NO_FRAME)
				continue;
			EQUAL(frame % (1u << order), 0);
			for (u32 k = 0; k < 1u << order; k++)
				CHECK(!owner[frame + k]++);
			held[n].frame = frame;
			held[n++].order = order;
			used += 1u << order;
		} else if (n) {
			u32 k = (u32)draw(n);
			for (u32 j = 0; j < 1u << held[k].order; j++)
				CHECK(owner[held[k].frame + j]--);
			used -= 1u << held[k].order;
			pc_arena_free(&a, held[k].frame, held[k].order);
			held[k] = held[--n];
		}
		if (step % 512 == 0) {
			arena_sound(&a);
			EQUAL(atomic_load(&a.used), used);
			for (u32 f = 0; f < FRAMES; f++)
				EQUAL(pc_arena_is_free(&a, f), !owner[f]);
		}
	}
	while (n) {
		n--;
		pc_arena_free(&a, held[n].frame, held[n].order);
	}
	arena_sound(&a);
	EQUAL(a.free[PC_ORDERS - 1].set, FRAMES >> (PC_ORDERS - 1)); /* everything merged again */
	EQUAL(atomic_load(&a.used) + atomic_load(&a.transit), 0);
	pc_arena_destroy(&a);
}

TEST(check_capacity_can_grow_and_shrink_in_use)
{
	struct pc_arena a = arena_of(67);
	u32 frames[67];
	for (u32 k = 0; k < 67; k++)
		frames[k] = pc_arena_alloc(&a, 0);
	EQUAL(pc_arena_alloc(&a, 0), PC_NO_FRAME);
	EQUAL(pc_arena_resize(&a, 600 * PAGE), 0);
	EQUAL(pc_arena_alloc(&a, 9), PC_NO_FRAME); /* frames 512..599 are no block of 512 */
	u32 large = pc_arena_alloc(&a, 6);
	EQUAL(large % 64, 0);
	EQUAL(pc_arena_resize(&a, 33 * PAGE), 0);
	EQUAL(pc_arena_alloc(&a, 0), PC_NO_FRAME); /* more is in use than allowed */
	pc_arena_free(&a, large, 6);
	for (u32 k = 0; k < 67; k++)
		pc_arena_free(&a, frames[k], 0);
	arena_sound(&a);
	for (u32 k = 0; k < 33; k++)
		CHECK(pc_arena_alloc(&a, 0) != PC_NO_FRAME);
	EQUAL(pc_arena_alloc(&a, 0), PC_NO_FRAME);
	EQUAL(pc_arena_resize(&a, (u64)a.frames_max * PAGE + PAGE), (u64)-EINVAL);
	pc_arena_destroy(&a);
}

static u32 resident(struct pc_arena *a, u32 frames)
{
	static unsigned char in[FRAMES];
	u32 n = 0;
	EQUAL(mincore(a->base, (size_t)frames * PAGE, in), 0);
	for (u32 k = 0; k < frames; k++)
		n += in[k] & 1;
	return n;
}

TEST(check_free_memory_goes_back_to_the_system_when_asked)
{
	struct pc_arena a = arena_of(FRAMES);
	madvise(a.base, (size_t)FRAMES * PAGE, MADV_NOHUGEPAGE);
	for (u32 k = 0; k < FRAMES; k++)
		memset(pc_arena_at(&a, pc_arena_alloc(&a, 0)), 1, PAGE);
	EQUAL(resident(&a, FRAMES), FRAMES);
	for (u32 k = 100; k < FRAMES; k++)
		pc_arena_free(&a, k, 0);
	EQUAL(resident(&a, FRAMES), FRAMES); /* recycled frames cost no page fault */
	pc_arena_give_back(&a);
	EQUAL(resident(&a, FRAMES), 100);
	pc_arena_destroy(&a);
}

TEST(check_ids_are_reused_and_stale_ones_can_be_read)
{
	struct pc_pool p;
	u32 ids[1000];
	EQUAL(pc_pool_init(&p, 96, 8, 1000), 0);
	for (u32 k = 0; k < 1000; k++) {
		ids[k] = pc_pool_alloc(&p);
		CHECK(ids[k]);
		for (u32 b = 0; b < 96; b++)
			CHECK(((u8 *)pc_pool_at(&p, ids[k]))[b] == 0);
		memset(pc_pool_at(&p, ids[k]), 7, 96);
	}
	EQUAL(pc_pool_alloc(&p), 0);
	for (u32 k = 0; k < 1000; k++)
		pc_pool_free(&p, ids[k]);
	EQUAL(p.used, 0);
	u32 id = pc_pool_alloc(&p);
	EQUAL(((u8 *)pc_pool_at(&p, id))[12], 7); /* bytes stay except the link */
	pc_pool_destroy(&p);

	/* A reader that pairs an id with the pool of another class reads zeros, not a fault. */
	EQUAL(pc_pool_init(&p, 4096, 0, 100000), 0);
	EQUAL(((volatile u8 *)pc_pool_at(&p, 99999))[0], 0);
	pc_pool_destroy(&p);
}

static bool mapped(u8 *memory)
{
	unsigned char in_core;
	return mincore((void *)((uintptr_t)memory & ~(uintptr_t)4095), 4096, &in_core) == 0;
}

/* Memory of one request. */
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

/* So many volumes share the last tag, which also marks frames of several: it never says that bytes are one's own. */
TEST(check_frames_are_foreign_to_each_volume_that_has_the_last_tag)
{
	struct pc_arena a = arena_of(FRAMES);
	u32 frame = pc_arena_alloc(&a, 4);
	CHECK(!pc_arena_claim(&a, frame, 4, 0xfffe));
	CHECK(!pc_arena_claim(&a, frame, 4, 0xfffe));
	CHECK(pc_arena_claim(&a, frame, 4, 0xffff));
	CHECK(pc_arena_claim(&a, frame, 4, 0xffff));
	pc_arena_free(&a, frame, 4);
	pc_arena_destroy(&a);
}
