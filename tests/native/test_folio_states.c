/* The states of a folio: each transition with its sets, flags, marks, stamps; answers cut at every byte, answers too late.
 * pc_check compares flags, marks, stamps and counts with the sets after every step; the tests state the sets. */
#include "rig.h"

enum { ROOM = 1 << 18 };

static u8 bytes[ROOM];

static void start(u64 size, u64 max_folio, bool durable)
{
	open_one(2 << 20, max_folio, size, ROOM, LIMITS(.durable_writes = durable));
	for (u32 k = 0; k < ROOM; k++)
		bytes[k] = (u8)(k * 31 + k / 256 + 3);
}

static void dirty(u64 pos, u64 len)
{
	EQUAL(file_write(file, pos, bytes + pos, len), 0);
}

/* Blocks of a set of the folio at pos, as bits. */
static u64 set(u64 pos, enum pc_set s)
{
	struct pc_folio *f = folio_at(file, pos);
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

/* D, W, U, X and the stamps of the first three (0: none). */
static void expect(u64 pos, u64 d, u64 w, u64 u, u64 x, u64 sd, u64 sw, u64 su)
{
	struct pc_folio *f = folio_at(file, pos);
	EQUAL(set(pos, PC_D), d);
	EQUAL(set(pos, PC_W), w);
	EQUAL(set(pos, PC_U), u);
	EQUAL(set(pos, PC_X), x);
	EQUAL(stamp(&f->d), sd);
	EQUAL(stamp(&f->w), sw);
	EQUAL(stamp(&f->u), su);
	SOUND(&rig);
}

/* The pass ends when its last request is done and a thread looks for more work. */
static void pass_ends(void)
{
	pass_is_over();
	EQUAL(file->inode->token, PC_TOKEN_FREE);
}

static u64 answer(struct pc_request *r, u64 most)
{
	struct call c = next_call(r);
	file->store.write_max = most;
	int64_t got = store_write(&file->store, c.pos, c.parts, c.n);
	file->store.write_max = 0;
	bool all = pc_write_answer(r, got);
	EQUAL(all, r->seg == r->nr_segs);
	return (u64)got;
}

TEST(check_the_circle_of_a_byte)
{
	for (u32 order = 0; order <= 2; order++) {
		u64 len = PAGE << order, all = (1ull << (1 << order)) - 1;
		start(0, len, false);
		EQUAL(pc_epoch_take(rig.volume), 1);
		dirty(0, len); /* E1, E3 */
		EQUAL(pc_folio_order(folio_at(file, 0)), order);
		expect(0, all, 0, 0, 0, 2, 0, 0);
		CHECK(state_at(file, 0) & PC_F_UPTODATE);
		struct pc_request *r = hand_over(); /* E4 */
		expect(0, 0, all, 0, 0, 0, 2, 0);
		pc_epoch_take(rig.volume);
		answer(r, 0);
		pc_write_done(r, true, false); /* E5 */
		expect(0, 0, 0, all, 0, 0, 0, 2);
		EQUAL(pc_inode_remote_size(file->inode), len);
		pass_ends();
		CHECK(pc_commit_needed(file->inode, 2));
		CHECK(!pc_commit_needed(file->inode, 1));
		CHECK(begin_commit(file));
		expect(0, 0, 0, all, 0, 0, 0, 2);
		pc_commit_end(file->inode, false, false); /* E7, failed: the old stamp comes back */
		expect(0, all, 0, 0, 0, 2, 0, 0);
		EQUAL(file_sync(file), 0);
		expect(0, 0, 0, 0, 0, 0, 0, 0);
		EQUAL(usage(file, NULL).clean, len);
	}
}

/* T-17: an error after every possible number of acknowledged bytes; ragged extents share blocks. */
static void cut_at_every_byte(u64 max_folio, const u64 (*writes)[2], u32 nr, u32 step)
{
	for (u64 cut = 0, total = 1; cut < total; cut += step) {
		start(40000, max_folio, false);
		if (max_folio > PAGE) /* a large folio of which only the written blocks are valid */
			fill_range(file, 0, 40000);
		for (u32 k = 0; k < nr; k++)
			dirty(writes[k][0], writes[k][1]);
		pc_invalidate_range(file->inode, 0, ALL);
		u64 dirty = usage(file, NULL).dirty, taken = 0;
		total = 0;
		for (struct pc_request *r = hand_over(); r; r = next_write()) {
			u64 sum = 0, done = 0;
			for (u32 s = 0; s < r->nr_segs; s++)
				sum += r->segs[s].len;
			total += sum;
			while (done < sum && taken < cut) {
				u64 n = answer(r, cut - taken);
				done += n;
				taken += n;
			}
			pc_write_done(r, done == sum, draw(2));
			SOUND(&rig);
		}
		struct pc_usage u = usage(file, NULL);
		EQUAL(u.dirty + u.unstable, dirty);
		EQUAL(u.writeback, 0);
		u64 written = file->store.write_bytes;
		EQUAL(written, cut);
		pc_retry(file->inode, 0, ALL, true);
		EQUAL(file_sync(file), 0);
		for (u32 k = 0; k < nr; k++)
			CHECK(memcmp(file->store.stable + writes[k][0], bytes + writes[k][0], writes[k][1]) == 0);
		/* Only the block that was cut is sent twice, although it was acknowledged in part. */
		CHECK(file->store.write_bytes - written <= total - (cut > PAGE ? cut - PAGE : 0));
	}
}

TEST(check_an_error_after_any_prefix_keeps_the_acknowledged_blocks)
{
	const u64 one[][2] = {{100, 50}, {300, 50}, {4000, 20}};
	const u64 run[][2] = {{4096, 8192}};
	const u64 mixed[][2] = {{10, 20}, {3000, 1500}, {4600, 100}, {8192, 5000}, {13500, 10}, {20480, 100}};
	cut_at_every_byte(PAGE, one, 3, 1);
	cut_at_every_byte(PAGE, run, 1, 97);
	cut_at_every_byte(PAGE, mixed, 6, 31);
	cut_at_every_byte(4 * PAGE, run, 1, 97);
	cut_at_every_byte(4 * PAGE, mixed, 6, 31);
	cut_at_every_byte(16 * PAGE, mixed, 6, 31);
}

/* The blocks of a folio go as two requests: the stamps follow the blocks, even if extents of a block end one by one. */
TEST(check_extents_of_a_block_are_acknowledged_together)
{
	start(16384, 2 * PAGE, false);
	set_limits(LIMITS(.max_write = PAGE));
	struct pc_request *fill = begin_fill(file, 0, 8192); /* a folio of two pages, nothing valid */
	struct pc_folio *f = folio_at(file, 0);
	pc_inode_leaf_lock(file->inode);
	EQUAL(pc_folio_ext_ensure(rig.cache, f), 0);
	CHECK(pc_valid_add(rig.cache, f, 4096, 8192));
	pc_inode_leaf_unlock(file->inode);
	memset(pc_folio_memory(rig.cache, f) + 4096, 9, 4096);
	pc_request_settle(fill);
	dirty(100, 50);
	dirty(300, 50);
	memset(bytes + 4096, 9, 4096);
	dirty(4096, 4096);
	struct pc_request *first = hand_over(), *second = next_write();
	EQUAL(first->nr_segs, 2);
	expect(0, 0, 3, 0, 0, 0, 1, 0);
	answer(first, 0); /* the first extent only: they are not contiguous */
	pc_write_done(first, false, false);
	expect(0, 1, 2, 0, 0, 1, 1, 0); /* no stamp of U without a block in U */
	answer(second, 0);
	pc_write_done(second, true, false);
	expect(0, 1, 0, 2, 0, 1, 0, 1);
	pass_ends();
	pc_retry(file->inode, 0, ALL, true);
	EQUAL(file_sync(file), 0);
	CHECK(memcmp(file->store.stable + 100, bytes + 100, 50) == 0);
	CHECK(memcmp(file->store.stable + 300, bytes + 300, 50) == 0);
}

/* T-13, T-75b: after an abort an answer, good or bad, only ends W; the token is free when the last one came. */
TEST(check_late_answers_only_end_the_flight)
{
	for (int ok = 0; ok <= 1; ok++)
		for (int more = 0; more <= 1; more++) {
			start(0, 4 * PAGE, false);
			set_limits(LIMITS(.max_write = more ? PAGE : 1 << 20));
			dirty(0, 16384);
			struct pc_request *r = hand_over();
			pc_volume_abort(rig.volume);
			pc_inode_aborted(file->inode); /* requests that no thread took go back */
			SOUND(&rig);
			pc_flush_start(file->inode, ALL, 0, ALL);
			SOUND(&rig); /* no mark without a pass */
			expect(0, more ? 14 : 0, more ? 1 : 15, 0, 0, more ? 1 : 0, 1, 0);
			if (ok)
				answer(r, 0);
			pc_write_done(r, ok, false);
			expect(0, 15, 0, 0, 0, 1, 0, 0);
			EQUAL(pc_inode_remote_size(file->inode), 0);
			EQUAL(file->inode->token, PC_TOKEN_FREE); /* no thread takes work of an aborted volume */
			pass_is_over();
			pc_volume_resume(rig.volume);
			pc_retry(file->inode, 0, ALL, true);
			EQUAL(file_sync(file), 0);
			CHECK(memcmp(file->store.stable, bytes, 16384) == 0);
		}
}

TEST(check_failed_bytes_are_kept_listed_and_retried)
{
	u64 ranges[8];
	start(0, PAGE, false);
	dirty(0, 10000);
	dirty(20000, 100);
	file->store.write_error = -ENOSPC;
	file->store.write_fails_at = 4096;
	file->store.parked = true;
	EQUAL(flush(file), PC_PENDING_FAILED);
	/* Rounded outward inside valid bytes: zeros behind the old end, and the page that is zeros up to 20000. */
	RANGES(ranges, pc_ranges(file->inode, PC_RANGES_FAILED, ranges, 4), 0, 12288, 16384, 20100);
	EQUAL(pc_ranges(file->inode, PC_RANGES_LOCAL, ranges, 0), 2); /* a short array still counts */
	EQUAL(pc_retry(file->inode, 0, ALL, false), 0); /* parked: only a request for failed bytes gets them */
	file->store.write_error = 0;
	EQUAL(pc_retry(file->inode, 0, ALL, true), 4 * PAGE);
	EQUAL(file_sync(file), 0);
	EQUAL(pc_ranges(file->inode, PC_RANGES_FAILED, ranges, 4), 0);
	EQUAL(pc_ranges(file->inode, PC_RANGES_LOCAL, ranges, 4), 0);
}

TEST(check_loss_is_the_only_way_out_without_a_call)
{
	start(16384, 4 * PAGE, false);
	dirty(0, 16384);
	dirty(8192, 1);
	struct pc_request *r = hand_over();
	pc_write_done(r, false, true);
	pass_ends();
	expect(0, 15, 0, 0, 15, 1, 0, 0);
	EQUAL(file_discard(file, 4096, 8192, NULL, 0), 1); /* E12 */
	expect(0, 13, 0, 0, 13, 1, 0, 0);
	EQUAL(file_discard(file, 0, ALL, NULL, 0), 2);
	EQUAL(usage(file, NULL).cached, 0);
}
