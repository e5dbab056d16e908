/* The states of a folio: each transition with its sets and stamps; answers that come too late. pc_check compares flags,
 * marks, stamps and counts with the sets after every step; the tests state the sets. */
#include "rig.h"

enum { ROOM = 1 << 18 };

static u8 bytes[ROOM];

static void start(u64 size, u64 max_folio)
{
	open_one(2 << 20, max_folio, size, ROOM, limits_wide());
	for (u32 k = 0; k < ROOM; k++)
		bytes[k] = (u8)(k * 31 + k / 256 + 3);
}

static void dirty(u64 pos, u64 len)
{
	EQUAL(file_write(file, pos, bytes + pos, len), 0);
}

/* Blocks of a set of the first folio, as bits. */
static u64 set(enum pc_set s)
{
	struct pc_folio *f = folio_at(file, 0);
	u64 bits = 0;
	for (u32 b = 0; b < 1u << pc_folio_order(f); b++)
		bits |= (u64)pc_set_count(rig.cache, f, s, b, b + 1) << b;
	return bits;
}

static u64 stamp(const struct pc_stamp *s)
{
	u64 v = pc_stamp_get(s);
	return v == PC_STAMP_NONE ? 0 : v;
}

/* D, W, U and their stamps (0: none); nothing has failed. */
static void expect(u64 d, u64 w, u64 u, u64 sd, u64 sw, u64 su)
{
	struct pc_folio *f = folio_at(file, 0);
	EQUAL(set(PC_D), d);
	EQUAL(set(PC_W), w);
	EQUAL(set(PC_U), u);
	EQUAL(set(PC_X), 0);
	EQUAL(stamp(&f->d), sd);
	EQUAL(stamp(&f->w), sw);
	EQUAL(stamp(&f->u), su);
	SOUND(&rig);
}

TEST(check_the_circle_of_a_byte)
{
	for (u32 order = 0; order <= 2; order++) {
		u64 len = PAGE << order, all = (1ull << (1 << order)) - 1;
		start(0, len);
		EQUAL(pc_epoch_take(rig.volume), 1);
		dirty(0, len); /* E1, E3 */
		EQUAL(pc_folio_order(folio_at(file, 0)), order);
		expect(all, 0, 0, 2, 0, 0);
		CHECK(state_at(file, 0) & PC_F_UPTODATE);
		struct pc_request *r = hand_over(); /* E4 */
		expect(0, all, 0, 0, 2, 0);
		pc_epoch_take(rig.volume);
		EQUAL(send_call(file, r), 1);
		pc_write_done(r, true, false); /* E5 */
		expect(0, 0, all, 0, 0, 2);
		EQUAL(pc_inode_remote_size(file->inode), len);
		pass_is_over(); /* its last request is done, and a thread looks for more work */
		EQUAL(file->inode->token, PC_TOKEN_FREE);
		CHECK(pc_commit_needed(file->inode, 2));
		CHECK(!pc_commit_needed(file->inode, 1));
		CHECK(begin_commit(file));
		expect(0, 0, all, 0, 0, 2);
		pc_commit_end(file->inode, false, false); /* E7, failed: the old stamp comes back */
		expect(all, 0, 0, 2, 0, 0);
		EQUAL(file_sync(file), 0);
		expect(0, 0, 0, 0, 0, 0);
		EQUAL(usage(file, NULL).clean, len);
	}
}

/* T-13, T-75b: after an abort an answer, good or bad, only ends W; the token is free when the last one came. */
TEST(check_late_answers_only_end_the_flight)
{
	for (int ok = 0; ok <= 1; ok++)
		for (int more = 0; more <= 1; more++) {
			start(0, 4 * PAGE);
			set_limits(LIMITS(.max_write = more ? PAGE : 1 << 20));
			dirty(0, 16384);
			struct pc_request *r = hand_over();
			pc_volume_abort(rig.volume, false);
			pc_inode_aborted(file->inode); /* requests that no thread took go back */
			SOUND(&rig);
			pc_flush_start(file->inode, ALL, 0, ALL);
			SOUND(&rig); /* no mark without a pass */
			expect(more ? 14 : 0, more ? 1 : 15, 0, more ? 1 : 0, 1, 0);
			if (ok)
				EQUAL(send_call(file, r), 1);
			pc_write_done(r, ok, false);
			expect(15, 0, 0, 1, 0, 0);
			EQUAL(pc_inode_remote_size(file->inode), 0);
			EQUAL(file->inode->token, PC_TOKEN_FREE); /* no thread takes work of an aborted volume */
			pass_is_over();
			pc_volume_resume(rig.volume);
			pc_retry(file->inode, 0, ALL, true);
			EQUAL(file_sync(file), 0);
			CHECK(memcmp(file->store.stable, bytes, 16384) == 0);
		}
}
