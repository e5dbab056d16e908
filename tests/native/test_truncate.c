/* Truncate, punch, discard and invalidation against everything else: a random walk beside an array of bytes. */
#include "content.h"

/* Punch as the engine does: the backend's part below remote_size, dirty zeros above it. */
static void punch(u64 pos, u64 end)
{
	u64 remote = pc_inode_remote_size(file->inode);
	end = pc_min(end, want_size);
	if (pos >= end)
		return;
	memset(want + pos, 0, end - pos);
	u64 below = pc_min(end, remote);
	if (pos < below) {
		stop_the_file(file, pos, below);
		u64 stored = pc_min(below, file->store.size);
		if (stored > pos)
			memset(file->store.bytes + pos, 0, stored - pos);
		pc_punch(file->inode, pos, below, true);
		let_the_file_go(file);
	}
	pos = pc_max(pos, remote);
	if (pos < end)
		EQUAL(file_write(file, pos, want + pos, end - pos), 0);
}

static void flush_with_errors(u64 room)
{
	struct store *s = &file->store;
	s->write_error = draw(2) ? -EIO : 0;
	s->parked = draw(2);
	s->read_error = draw(4) ? 0 : -EIO;
	s->write_fails_at = draw(room);
	s->commit_error = draw(2) ? -EIO : 0;
	draw(2) ? (void)flush_range(file, ALL, draw(room), draw(2 * room)) : (void)file_sync(file);
	SOUND(&rig);
	s->write_error = s->read_error = s->commit_error = 0;
	pc_retry(file->inode, 0, ALL, true);
}

static void step(u64 room)
{
	u64 unit = file->inode->limits.write_unit, size = want_size, pos = draw(room - 1);
	u64 len = 1 + draw(draw(3) ? 300 : draw(4) ? 20000 : room / 3);
	len = pc_min(len, room - pos);
	if (draw(3) == 0)
		pos = pos / PAGE * PAGE;
	switch (draw(18)) {
	case 0: cut(draw(room)); break;
	case 1: cut(draw(2) ? size / PAGE * PAGE : draw(2) ? size / unit * unit : size - (size > 0)); break;
	case 2: cut(size + draw(room - size + 1)); break;
	case 3: punch(pos, pos + len); break;
	case 4: punch(pos / PAGE * PAGE, pos / PAGE * PAGE + 3 * PAGE); break;
	case 5: flush_with_errors(room); break;
	case 6: synced(); break;
	case 7: pc_drop_clean(file->inode, pos, draw(2) ? ALL : pos + len); break;
	case 8: pc_invalidate_range(file->inode, pos, pos + len); break;
	case 9:
		file->store.write_max = draw(2) ? 0 : unit + draw(draw(2) ? 6000 : 50000);
		file->store.read_max = (draw(2) ? 0 : 1 + draw(5000)) * file->inode->limits.read_unit;
		break;
	case 10:
		pc_pass_background(file->inode, draw(1 << 18), false);
		while (draw(4) && work(rig.volume))
			;
		break;
	case 11:
	case 12: compare(pos, len); break;
	default: put_random(pos < size + 5000 ? pos : size, pc_min(len, room - size + (pos < size ? size - pos : 0)));
	}
}

static struct pc_limits limits_drawn(void)
{
	u64 units[] = {1, 1, 1, 1, 512, 1000, PAGE, 5000, 12288, 40960, 65536, 100000}, unit = units[draw(12)];
	return LIMITS(.write_unit = unit, .max_write = draw(2) ? 1 << 20 : 1 + draw(200000),
		      .max_vectors = draw(2) ? 1024 : 1 + (u32)draw(6),
		      .boundary = draw(3)     ? 0
				  : unit == 1 ? 5000 + draw(10000)
					      : unit * (1 + draw(10)),
		      .read_unit = draw(2) ? 1 : 1 + draw(9000), .max_read = draw(2) ? 1 << 20 : 1 + draw(20000),
		      .commit_on_close = draw(2), .durable_writes = draw(4) == 0, .ordered_writes = draw(4) == 0);
}

TEST(check_a_random_walk_loses_and_invents_nothing)
{
	u64 folios[] = {PAGE, 4 * PAGE, 16 * PAGE, 2 << 20};
	for (u32 walk = 0; walk < 400; walk++) {
		seed(walk);
		u64 room = draw(3) ? 96 << 10 : 300000;
		start_with(draw(3) ? draw(room) : 0, (256 << 10) << draw(4), folios[walk % 4], limits_drawn());
		for (int n = 0; n < 150; n++) {
			step(room);
			if (n % 10 == 0)
				SOUND(&rig);
		}
		compare(0, room);
		synced();
		pc_drop_clean(file->inode, 0, ALL);
		compare(0, room);
	}
}

TEST(check_discard_gives_up_what_it_lists)
{
	u64 lost[8];
	start(16384, PAGE);
	put_random(100, 200);
	put_random(8192, 4096);
	put_random(20000, 1000); /* a local tail */
	RANGES(lost, file_discard(file, 8192, ALL, lost, 4), 8192, 12288, 16384, 21000);
	EQUAL(pc_inode_size(file->inode), 16384);
	want_size = 16384;
	memcpy(want + 8192, file->store.bytes + 8192, 8192);
	compare(0, ROOM);
	EQUAL(usage(file, NULL).local, PAGE);
	EQUAL(file_discard(file, 0, ALL, lost, 0), 1); /* a short array: given up, and the list stays */
	RANGES(lost, pc_discarded(file->inode, lost, 1), 0, PAGE);
	EQUAL(pc_discarded(file->inode, lost, 1), 0);
	memcpy(want, file->store.bytes, want_size);
	compare(0, ROOM);
}

TEST(check_discard_does_not_wait_for_a_fill)
{
	start(16384, PAGE);
	put_random(100, 200);
	struct pc_request *r = begin_fill(file, 0, PAGE); /* it owns the folio, its answer may take forever */
	EQUAL(file_discard(file, 0, ALL, NULL, 0), 1);
	EQUAL(usage(file, NULL).local, 0);
	SOUND(&rig);
	run_fill(file, r);
	memcpy(want, file->store.bytes, want_size);
	compare(0, ROOM);
}

/* The local page has 512 valid bytes, and the stored bytes go on behind them. [I-10, M6] */
TEST_OF_FIX("a_local_end_is_a_byte", check_a_discard_leaves_the_size_at_the_last_byte)
{
	start(PAGE + 1536, PAGE);
	put_random(2 * PAGE, 2048);
	put_random(PAGE, 512);
	EQUAL(file_discard(file, 2 * PAGE, ALL, NULL, 0), 1);
	EQUAL(pc_inode_size(file->inode), PAGE + 1536);
	SOUND(&rig);
	EQUAL(file_sync(file), 0);
	EQUAL(file->store.size, pc_inode_size(file->inode));
}

/* No store is that large; an offset may be. */
TEST(check_a_hole_at_a_huge_offset_keeps_the_bytes_behind_it)
{
	start(PAGE, PAGE);
	put(1ull << 54, PAGE, 7);
	WITH_TOKEN(pc_punch(file->inode, 1ull << 53, (1ull << 53) + PAGE, true));
	see(1ull << 54, PAGE, 7);
	EQUAL(file_discard(file, PAGE, ALL, NULL, 0), 1);
	EQUAL(pc_inode_size(file->inode), PAGE);
}
