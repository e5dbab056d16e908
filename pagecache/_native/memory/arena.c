/*
 * arena.c - frames: one reserved mapping, cut into power-of-two blocks by a buddy allocator.
 *
 *   address space  |<------------------------ reserved (PROT_NONE) ------------------------>|
 *                  |<------ committed: read/write ------>|
 *   frames         0 1 2 3 ...                     frames-1
 *   free, order 0  0 0 1 0 ...   a set bit is a free block of that order; order 1 has half as many bits, ...
 *
 * Each order is a bitmap with 64-way summaries: the lowest free block is found in `levels` steps, splitting clears one bit
 * and sets one per order, merging tests the buddy's bit. No list runs through the frames, so a free frame's memory is never
 * touched, and the whole allocator costs some 0.27 bytes per frame. Frames are recycled without returning to the system
 * (a page fault costs more than the copy that follows it); `resize` and frames above the capacity are given back. A closed
 * arena hands nothing out: the reserve goes at once, the frames when the last one is free.
 *
 * Locks: `lock` (level 8) for all but `used`, `capacity` and `transit`, which are read without it. Called by descriptor.c,
 * shadow.c and reclaim.c. This file uses no folio and zeroes nothing: pc_arena_claim returns whether a frame may hold bytes of
 * another volume.
 */
#include <sys/mman.h>

#include "memory/memory.h"

enum { PC_HUGE = 2 << 20 };

static void bitmap_layout(struct pc_bitmap *b, u32 bits, size_t *words)
{
	u32 n = bits;
	b->bits = bits;
	b->levels = 0;
	b->set = 0;
	do {
		n = (n + 63) / 64;
		*words += n;
		b->levels++;
	} while (n > 1);
	PC_ASSERT(b->levels <= PC_SUMMARIES);
}

static u64 *bitmap_place(struct pc_bitmap *b, u64 *at)
{
	u32 n = b->bits;
	for (u32 l = 0; l < b->levels; l++) {
		n = (n + 63) / 64;
		b->words[l] = at;
		at += n;
	}
	return at;
}

static bool bitmap_test(const struct pc_bitmap *b, u32 bit)
{
	return bit < b->bits && (b->words[0][bit / 64] >> (bit % 64) & 1);
}

static void bitmap_set(struct pc_bitmap *b, u32 bit)
{
	PC_DEBUG_ASSERT(!bitmap_test(b, bit));
	b->set++;
	for (u32 l = 0; l < b->levels; l++, bit /= 64) {
		u64 old = b->words[l][bit / 64];
		b->words[l][bit / 64] = old | 1ull << (bit % 64);
		if (old)
			return;
	}
}

static void bitmap_clear(struct pc_bitmap *b, u32 bit)
{
	PC_DEBUG_ASSERT(bitmap_test(b, bit));
	b->set--;
	for (u32 l = 0; l < b->levels; l++, bit /= 64) {
		b->words[l][bit / 64] &= ~(1ull << (bit % 64));
		if (b->words[l][bit / 64])
			return;
	}
}

static u32 bitmap_first(const struct pc_bitmap *b)
{
	u32 bit = 0;
	for (u32 l = b->levels; l-- > 0;)
		bit = bit * 64 + (u32)__builtin_ctzll(b->words[l][bit]);
	return bit;
}

/* The frames [frame, end) are free. */
static void release_range(struct pc_arena *a, u32 frame, u32 end)
{
	while (frame < end) {
		/* The largest aligned block that fits: frames may end anywhere. */
		u32 k = frame ? (u32)__builtin_ctz(frame) : PC_ORDERS - 1;
		if (k > PC_ORDERS - 1)
			k = PC_ORDERS - 1;
		while ((1u << k) > end - frame)
			k--;
		u32 f = frame;
		frame += 1u << k;
		while (k < PC_ORDERS - 1 && bitmap_test(&a->free[k], (f >> k) ^ 1)) {
			bitmap_clear(&a->free[k], (f >> k) ^ 1);
			k++;
			f &= ~((1u << k) - 1);
		}
		bitmap_set(&a->free[k], f >> k);
	}
}

static int commit_frames(struct pc_arena *a, u32 frames)
{
	if (a->closed)
		return -ESHUTDOWN;
	if (frames <= a->frames)
		return 0;
	if (frames > a->frames_max)
		return -EINVAL;
	u8 *from = pc_arena_at(a, a->frames);
	size_t len = (size_t)(frames - a->frames) << a->page_shift;
	if (mprotect(from, len, PROT_READ | PROT_WRITE))
		return -ENOMEM;
#ifdef MADV_HUGEPAGE
	(void)madvise(from, len, MADV_HUGEPAGE); /* worth up to 1.4x at 4 KiB; not having it is no error */
#endif
	release_range(a, a->frames, frames);
	a->frames = frames;
	return 0;
}

/* @reserve: bytes of address space, the bound of pc_arena_resize. Return: 0, -ENOMEM; nothing is mapped then. */
int pc_arena_init(struct pc_arena *a, u64 capacity, u32 page_shift, u64 reserve)
{
	memset(a, 0, sizeof(*a));
	a->page_shift = page_shift;
	a->reserved = (reserve + PC_HUGE - 1) / PC_HUGE * PC_HUGE + PC_HUGE;
	u8 *base = mmap(NULL, a->reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED) {
		a->reserved = 0;
		return -ENOMEM;
	}
	u8 *aligned = (u8 *)(((uintptr_t)base + PC_HUGE - 1) / PC_HUGE * PC_HUGE);
	if (aligned != base)
		munmap(base, (size_t)(aligned - base));
	a->reserved -= (size_t)(aligned - base);
	a->base = aligned;
	a->frames_max = (u32)pc_min(a->reserved >> page_shift, 0xfffffffeu);

	size_t words = 0;
	for (u32 k = 0; k < PC_ORDERS; k++)
		bitmap_layout(&a->free[k], (a->frames_max >> k) + 1, &words);
	a->tables_size = words * 8 + ((size_t)a->frames_max / 16 + 1) * sizeof(u16);
	a->tables =
		mmap(NULL, a->tables_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (a->tables == MAP_FAILED) {
		a->tables_size = 0;
		pc_arena_destroy(a);
		return -ENOMEM;
	}
	u64 *at = a->tables;
	for (u32 k = 0; k < PC_ORDERS; k++)
		at = bitmap_place(&a->free[k], at);
	a->owner_tag = (u16 *)at;
	int err = pc_arena_resize(a, capacity);
	if (err)
		pc_arena_destroy(a);
	return err;
}

void pc_arena_destroy(struct pc_arena *a)
{
	if (a->reserved)
		munmap(a->base, a->reserved);
	if (a->tables_size)
		munmap(a->tables, a->tables_size);
	a->reserved = a->tables_size = 0;
}

/* Hand out no frame from here on, and unmap the address space behind the frames that were used. */
void pc_arena_close(struct pc_arena *a)
{
	pc_leaf_lock(&a->lock, PC_LEVEL_FRAME);
	size_t keep = (size_t)a->frames << a->page_shift;
	if (!a->closed)
		munmap(a->base + keep, a->reserved - keep);
	a->closed = 1;
	a->reserved = keep;
	a->frames_max = a->frames;
	pc_leaf_unlock(&a->lock, PC_LEVEL_FRAME);
	pc_arena_give_back(a);
}

/* Unmap the frames of a closed arena, unless one is in use. Calls, views and kept buffers only look at frames that are
 * in use. Context: no optimistic copy runs (see pc_cache_release). */
void pc_arena_release(struct pc_arena *a)
{
	pc_leaf_lock(&a->lock, PC_LEVEL_FRAME);
	if (a->closed && !atomic_load(&a->used)) {
		a->frames = 0;
		for (u32 k = 0; k < PC_ORDERS; k++)
			a->free[k].bits = a->free[k].set = 0;
		pc_arena_destroy(a);
	}
	pc_leaf_unlock(&a->lock, PC_LEVEL_FRAME);
}

/* Return the memory of all free frames to the system. */
void pc_arena_give_back(struct pc_arena *a)
{
	pc_leaf_lock(&a->lock, PC_LEVEL_FRAME);
	for (u32 k = 0; k < PC_ORDERS; k++)
		for (u32 bit = 0; bit << k < a->frames; bit++) {
			u64 word = a->free[k].words[0][bit / 64] >> (bit % 64);
			if (!word)
				bit |= 63;
			else if (word & 1)
				(void)madvise(pc_arena_at(a, bit << k), (size_t)1 << (k + a->page_shift),
					      MADV_DONTNEED);
		}
	pc_leaf_unlock(&a->lock, PC_LEVEL_FRAME);
}

/* Capacity counts frames in use; it is no address bound. */
int pc_arena_resize(struct pc_arena *a, u64 capacity)
{
	u32 frames = (u32)(capacity >> a->page_shift);
	pc_leaf_lock(&a->lock, PC_LEVEL_FRAME);
	int err = commit_frames(a, frames);
	if (!err)
		atomic_store(&a->capacity, frames);
	pc_leaf_unlock(&a->lock, PC_LEVEL_FRAME);
	return err;
}

/* Take the lowest free block of `order`. The block counts as "in transit" until its owner is visible in a structure
 * that pc_check walks. Context: takes the arena lock. Return: first frame, or PC_NO_FRAME when the capacity is used up
 * or no block is large enough. */
u32 pc_arena_alloc(struct pc_arena *a, u32 order)
{
	u32 n = 1u << order, frame = PC_NO_FRAME;
	pc_leaf_lock(&a->lock, PC_LEVEL_FRAME);
	u32 used = atomic_load_explicit(&a->used, memory_order_relaxed);
	if (used + n <= atomic_load_explicit(&a->capacity, memory_order_relaxed) && !a->closed) {
		u32 k = order;
		while (k < PC_ORDERS && !a->free[k].set)
			k++;
		if (k < PC_ORDERS) {
			u32 bit = bitmap_first(&a->free[k]);
			bitmap_clear(&a->free[k], bit);
			frame = bit << k;
			while (k > order) {
				k--;
				bitmap_set(&a->free[k], (frame >> k) + 1);
			}
			atomic_store_explicit(&a->used, used + n, memory_order_relaxed);
			atomic_fetch_add_explicit(&a->transit, n, memory_order_relaxed);
		}
	}
	pc_leaf_unlock(&a->lock, PC_LEVEL_FRAME);
	return frame;
}

/* The frames must be in transit: out of every structure. */
void pc_arena_free(struct pc_arena *a, u32 frame, u32 order)
{
	u32 n = 1u << order;
	pc_leaf_lock(&a->lock, PC_LEVEL_FRAME);
	if (frame + n > atomic_load_explicit(&a->capacity, memory_order_relaxed))
		(void)madvise(pc_arena_at(a, frame), (size_t)n << a->page_shift, MADV_DONTNEED);
	release_range(a, frame, frame + n);
	atomic_fetch_sub_explicit(&a->used, n, memory_order_relaxed);
	atomic_fetch_sub_explicit(&a->transit, n, memory_order_relaxed);
	pc_leaf_unlock(&a->lock, PC_LEVEL_FRAME);
}

bool pc_arena_is_free(const struct pc_arena *a, u32 frame)
{
	for (u32 k = 0; k < PC_ORDERS; k++)
		if (bitmap_test(&a->free[k], frame >> k))
			return true;
	return false;
}

/* Note that the frames now carry bytes of the volume `tag`; volumes may share the last tag, 0xffff. Tags are kept per 16
 * frames; a group that more than one volume used stays "mixed", which is 0xffff too, until one claims all of it. Return:
 * true when bytes of another volume may still be in the frames: a caller that exposes them before overwriting them must
 * zero them first (contract 1.4). */
bool pc_arena_claim(struct pc_arena *a, u32 frame, u32 order, u16 tag)
{
	bool foreign = false;
	u32 end = frame + (1u << order);
	pc_leaf_lock(&a->lock, PC_LEVEL_FRAME);
	for (u32 g = frame / 16; g <= (end - 1) / 16; g++) {
		u16 old = a->owner_tag[g];
		bool whole = frame <= g * 16 && end >= (g + 1) * 16;
		if (old != 0 && (old != tag || tag == 0xffff))
			foreign = true;
		if (old == 0 || whole)
			a->owner_tag[g] = tag;
		else if (old != tag)
			a->owner_tag[g] = 0xffff;
	}
	pc_leaf_unlock(&a->lock, PC_LEVEL_FRAME);
	return foreign;
}

/* Bytes of tables that frames below the high-water mark can have touched. */
size_t pc_arena_metadata(const struct pc_arena *a)
{
	return (size_t)a->frames / 4 + (size_t)a->frames / 8;
}

/* [I-6] The free lists are buddy-consistent: no free block inside another, no two free buddies apart. Arena lock held. */
bool pc_arena_check(const struct pc_arena *a, struct pc_violation *out)
{
	u64 free_frames = 0;
	for (u32 k = 0; k < PC_ORDERS; k++) {
		u32 count = 0;
		for (u32 bit = 0; bit << k < a->frames; bit++) {
			if (!bitmap_test(&a->free[k], bit))
				continue;
			count++;
			free_frames += 1u << k;
			if (k < PC_ORDERS - 1 && bitmap_test(&a->free[k], bit ^ 1))
				return pc_violated(out, "I-6", "frames %: free buddies of order % are not merged",
						   bit << k, k);
			for (u32 up = k + 1; up < PC_ORDERS; up++)
				if (bitmap_test(&a->free[up], bit >> (up - k)))
					return pc_violated(out, "I-6", "frames %: free in order % and in %", bit << k,
							   k, up);
		}
		if (count != a->free[k].set)
			return pc_violated(out, "I-6", "order % counts % free blocks and has %", k, a->free[k].set,
					   count);
	}
	u32 used = atomic_load(&((struct pc_arena *)a)->used);
	if (free_frames + used != a->frames)
		return pc_violated(out, "I-6", "% frames free and % in use of %", free_frames, used, a->frames);
	return true;
}
