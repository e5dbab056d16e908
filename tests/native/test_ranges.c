/* V, the block sets and the ragged extents of one folio against arrays of bytes and of blocks. */
#include "rig.h"

enum { BYTES = 2 << 20, BLOCKS = 512 };

static u8 valid[BYTES];

static struct pc_folio *folio_of(u32 order)
{
	struct pc_folio *f;
	if (!rig.cache)
		open_one(16 << 20, BYTES, BYTES, 0, limits_wide());
	EQUAL(pc_folio_create(file->inode, 0, order, 0, 0, &f), 0);
	EQUAL(pc_folio_order(f), order);
	EQUAL(pc_folio_ext_ensure(rig.cache, f), 0);
	memset(valid, 0, sizeof(valid));
	return f;
}

static void folio_gone(struct pc_folio *f)
{
	pc_inode_leaf_lock(file->inode);
	pc_folio_remove(file->inode, f);
	pc_inode_leaf_unlock(file->inode);
}

/* The number of pieces of V in blocks that are not wholly valid: the ragged slots have to hold them. */
static u32 ragged(u32 blocks)
{
	u32 n = 0;
	for (u32 b = 0; b < blocks; b++) {
		const u8 *v = valid + b * PAGE;
		u32 starts = 0, bytes = 0;
		for (u32 k = 0; k < PAGE; k++) {
			bytes += v[k];
			starts += v[k] && (k == 0 || !v[k - 1]);
		}
		n += bytes == PAGE ? 0 : starts;
	}
	return n;
}

static void compare(struct pc_folio *f, u32 size, u32 rounds)
{
	for (u32 k = 0; k < rounds; k++) {
		u32 from = (u32)draw(size), to = from + 1 + (u32)draw(size - from), at = from;
		while (at < to && valid[at])
			at++;
		EQUAL(pc_valid_until(rig.cache, f, from, to), at);
		EQUAL(pc_valid_covers(rig.cache, f, from, to), at == to);
		for (at = from; at < to && !valid[at];)
			at++;
		EQUAL(pc_missing_until(rig.cache, f, from, to), at);
	}
	bool all = memchr(valid, 0, size) == NULL;
	EQUAL((pc_folio_state(f) & PC_F_UPTODATE) != 0, all);
}

static void cut(struct pc_folio *f, u32 b0, u32 b1)
{
	/* The lock that pc_folio_refresh takes. */
	pc_inode_leaf_lock(file->inode);
	EQUAL(pc_folio_ext_ensure(rig.cache, f), 0);
	pc_valid_cut(rig.cache, f, b0 * PAGE, b1 * PAGE);
	pc_inode_leaf_unlock(file->inode);
	memset(valid + b0 * PAGE, 0, (b1 - b0) * PAGE);
}

static void random_use(u32 order, u32 steps)
{
	struct pc_folio *f = folio_of(order);
	u32 blocks = 1u << order, size = blocks * PAGE;
	for (u32 step = 0; step < steps; step++) {
		static u8 before[BYTES];
		u32 from, to, near = (u32)draw(blocks);
		switch (draw(8)) {
		case 0: from = near * PAGE, to = from + PAGE * (1 + (u32)draw(blocks - near)); break;
		case 1: from = (u32)draw(size), to = from + 1 + (u32)draw(size - from); break;
		case 2: from = 0, to = draw(20) ? 1 + (u32)draw(200) : size; break;
		default: from = near * PAGE + (u32)draw(16) * 256, to = from + 1 + (u32)draw(256); break;
		}
		if (draw(10) == 0) {
			cut(f, near, near + 1 + (u32)draw(blocks - near));
		} else {
			memcpy(before, valid, size);
			memset(valid + from, 1, to - from);
			bool fits = ragged(blocks) <= PC_RAGGED;
			EQUAL(pc_valid_can_add(rig.cache, f, from, to), fits);
			pc_inode_leaf_lock(file->inode);
			EQUAL(pc_valid_add(rig.cache, f, from, to), fits);
			pc_inode_leaf_unlock(file->inode);
			if (!fits)
				memcpy(valid, before, size);
		}
		compare(f, size, 3);
	}
	folio_gone(f);
}

TEST(check_valid_bytes_match_an_array_at_every_order)
{
	for (u32 order = 0; order <= 3; order++)
		random_use(order, 2500 >> order);
	for (u32 order = 4; order <= 9; order++)
		random_use(order, order < 7 ? 100 : 25);
}

TEST(check_block_sets_match_an_array_at_every_order)
{
	static u8 in[PC_SETS][BLOCKS];
	for (u32 order = 0; order <= 9; order++) {
		struct pc_folio *f = folio_of(order);
		u32 blocks = 1u << order;
		memset(in, 0, sizeof(in));
		for (int step = 0; step < 1500; step++) {
			enum pc_set s = (enum pc_set)(PC_D + draw(PC_SETS - 1));
			u32 b0 = (u32)draw(blocks), b1 = b0 + (u32)draw(blocks - b0 + 1), changed = 0, count = 0,
			    local = 0;
			bool add = draw(2);
			for (u32 b = b0; b < b1; b++) {
				changed += in[s][b] != add;
				in[s][b] = add;
			}
			EQUAL(add ? pc_set_add(rig.cache, f, s, b0, b1) : pc_set_del(rig.cache, f, s, b0, b1), changed);
			b0 = (u32)draw(blocks), b1 = b0 + 1 + (u32)draw(blocks - b0);
			u32 next = b1, clear = b1;
			for (u32 b = b1; b-- > b0;) {
				count += in[s][b];
				local += in[PC_D][b] || in[PC_W][b] || in[PC_U][b];
				next = in[s][b] ? b : next;
				clear = in[s][b] ? clear : b;
			}
			EQUAL(pc_set_count(rig.cache, f, s, b0, b1), count);
			EQUAL(pc_local_count(rig.cache, f, b0, b1), local);
			EQUAL(pc_set_next(rig.cache, f, s, b0, b1), next);
			EQUAL(pc_set_next_clear(rig.cache, f, s, b0, b1), clear);
		}
		for (enum pc_set s = PC_D; s < PC_SETS; s++)
			pc_set_del(rig.cache, f, s, 0, blocks);
		EQUAL(pc_folio_state(f) & (PC_F_LOCAL | PC_F_FAILED), 0);
		folio_gone(f);
	}
}
