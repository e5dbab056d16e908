/* Dirty budget: the writers that go on without asking, pause, or stand in line, and the reservations. Contract 2.24. */
#include "rig.h"

enum { BLOCKS = 1024, MID = 96, LIMIT = 128 };

static u8 bytes[1 << 20];

/* background 64, midpoint 96, limit 128 blocks; the volume may have all of it. */
static void start(void)
{
	rig_open(&rig, BLOCKS * PAGE, 64 << 10);
	pc_cache_configure(rig.cache, 64 * PAGE, LIMIT * PAGE, 64 << 10, true);
	pc_volume_set_dirty_limit(rig.volume, LIMIT * PAGE, 16 * PAGE);
	file = file_open(&rig, 0, 4 << 20);
}

static void dirty(struct file *f, u64 block, u64 n)
{
	EQUAL(file_write(f, block * PAGE, bytes, n * PAGE), 0);
}

static struct pc_pressure pressure(struct pc_volume *v)
{
	struct pc_pressure p;
	pc_volume_pressure(v, &p);
	return p;
}

static bool take(struct pc_place *p, u64 n)
{
	pc_place_open(file->inode, p, 0, n * PAGE);
	return pc_room_take(file->inode, p, false);
}

/* Whether a writer that has paused gets room for so many blocks, and for no more. */
static bool most_is(struct file *f, u64 n)
{
	struct pc_place p;
	bool gets[2];
	for (u64 k = 0; k < 2; k++) {
		pc_place_open(f->inode, &p, 0, (n + k) * PAGE);
		gets[k] = pc_room_take(f->inode, &p, true);
		pc_place_close(f->inode, &p);
	}
	return gets[0] && !gets[1];
}

TEST(check_below_the_midpoint_no_writer_asks)
{
	start();
	CHECK(pc_dirty_room(file->inode, 95 * PAGE));
	CHECK(!pc_dirty_room(file->inode, MID * PAGE)); /* whatever its start, it may touch one block more */
	dirty(file, 0, 90);
	CHECK(pc_dirty_room(file->inode, 5 * PAGE));
	CHECK(!pc_dirty_room(file->inode, 8 * PAGE));
	EQUAL(pressure(rig.volume).position, 0);
	CHECK(pressure(rig.volume).over_background);
}

/* Above it the volume's writers may dirty the granted bytes, counted by newly dirty ones: overwrites cost nothing. */
TEST(check_above_the_midpoint_a_grant_is_used_up)
{
	struct pc_place p;
	start();
	dirty(file, 0, 100);
	EQUAL(pressure(rig.volume).position, 125);
	CHECK(!pc_dirty_room(file->inode, PAGE));
	CHECK(!take(&p, 1) && pc_room_fits(file->inode, &p));
	pc_room_grant(rig.volume, 4 * PAGE);
	CHECK(pc_dirty_room(file->inode, PAGE));
	dirty(file, 50, 10);
	CHECK(pc_dirty_room(file->inode, PAGE));
	dirty(file, 100, 4);
	CHECK(!pc_dirty_room(file->inode, PAGE));
	CHECK(!pc_room_take(file->inode, &p, false));
	CHECK(pc_room_take(file->inode, &p, true)); /* a writer that paused needs none */
	pc_place_close(file->inode, &p);
	pc_room_grant(rig.volume, 1 << 20);
	dirty(file, 104, 23);
	CHECK(!pc_dirty_room(file->inode, PAGE)); /* a grant does not pass the limit */
	EQUAL(pressure(rig.volume).position, 968);
}

/* Reservations count until they are dirty or returned: many writers together do not pass the limit. */
TEST(check_reservations_are_counted)
{
	struct pc_place p[12];
	start();
	for (u32 k = 0; k < 12; k++)
		CHECK(take(&p[k], 8) == (k < MID / 8));
	for (u32 k = 0; k < 12; k++)
		pc_place_close(file->inode, &p[k]);
	dirty(file, 0, 96);
	u32 taken = 0;
	for (u32 k = 0; k < 12; k++) {
		pc_place_open(file->inode, &p[k], 0, 8 * PAGE);
		taken += pc_room_take(file->inode, &p[k], true);
	}
	EQUAL(taken, (LIMIT - 96) / 8);
	for (u32 k = 0; k < 12; k++)
		pc_place_close(file->inode, &p[k]);
	EQUAL(atomic_load(&rig.cache->reserved), 0);
	struct pc_volume *v = volume_open(&rig); /* reservations of all volumes count against the cache's limit */
	struct file *other = file_open_in(&rig, v, 0, 4 << 20, limits_wide());
	EQUAL(file_sync(file), 0);
	CHECK(take(&p[0], 90));
	EQUAL(file_write(other, 0, bytes, PAGE), 0);
	pc_place_open(other->inode, &p[1], 0, 38 * PAGE);
	CHECK(!pc_room_take(other->inode, &p[1], true));
	CHECK(!pc_dirty_room(other->inode, 5 * PAGE));
	pc_place_close(file->inode, &p[0]);
	CHECK(pc_room_take(other->inode, &p[1], true));
	pc_place_close(other->inode, &p[1]);
	EQUAL(atomic_load(&rig.volume->room.reserved), 0);
	pc_place_open(file->inode, &p[0], PAGE - 1, 2);
	EQUAL(p[0].want, 2); /* blocks touched, not bytes divided */
}

TEST(check_writers_at_the_limit_go_on_in_order)
{
	struct pc_place p[4];
	start();
	dirty(file, 0, LIMIT);
	for (u32 k = 0; k < 4; k++) {
		pc_place_open(file->inode, &p[k], 0, PAGE);
		CHECK(!pc_room_take(file->inode, &p[k], true));
		EQUAL(pc_line_first(file->inode, &p[k]), k == 0);
	}
	EQUAL(file_sync(file), 0);
	CHECK(!pc_dirty_room(file->inode, 1)); /* room, but a writer stands in line */
	struct pc_place late;
	CHECK(!take(&late, 1));
	CHECK(!pc_room_fits(file->inode, &late));
	CHECK(!pc_room_take(file->inode, &p[1], true));
	pc_place_close(file->inode, &p[2]); /* it gave up */
	u32 seq = pc_cache_event_seq(rig.cache);
	CHECK(pc_room_take(file->inode, &p[0], false));
	CHECK(pc_cache_event_seq(rig.cache) != seq); /* the next one checks */
	CHECK(pc_line_first(file->inode, &p[1]));
	CHECK(pc_room_take(file->inode, &p[1], false));
	CHECK(pc_line_first(file->inode, &p[3]));
	pc_place_close(file->inode, &p[3]);
	CHECK(pc_dirty_room(file->inode, 1));
	for (u32 k = 0; k < 4; k++)
		pc_place_close(file->inode, &p[k]);
}

/* A volume within its floor goes on whatever another one holds, and every writer can have a first piece dirty. */
TEST(check_a_floor_belongs_to_one_volume)
{
	struct pc_place p;
	start();
	struct pc_volume *v = volume_open(&rig);
	struct file *other = file_open_in(&rig, v, 0, 4 << 20, limits_wide());
	pc_volume_set_dirty_limit(v, 64 * PAGE, 16 * PAGE);
	dirty(file, 0, LIMIT);
	pc_place_open(other->inode, &p, 0, 100 * PAGE);
	CHECK(pc_room_take(other->inode, &p, true)); /* the first, however large */
	pc_place_close(other->inode, &p);
	dirty(other, 0, 10);
	CHECK(most_is(other, 6));
	EQUAL(file_sync(file), 0);
	dirty(other, 10, 53);
	CHECK(most_is(other, 1)); /* its share, though the cache has room */
}

TEST(check_a_new_share_moves_the_thresholds)
{
	start();
	dirty(file, 0, 40);
	CHECK(!pressure(rig.volume).over_background);
	u32 seq = pc_cache_event_seq(rig.cache);
	pc_volume_set_dirty_limit(rig.volume, 64 * PAGE, 0); /* background 32, midpoint 48 */
	CHECK(pc_cache_event_seq(rig.cache) != seq);
	CHECK(pressure(rig.volume).over_background);
	CHECK(pc_dirty_room(file->inode, 7 * PAGE));
	CHECK(!pc_dirty_room(file->inode, 8 * PAGE));
	seq = pc_flusher_seq(rig.cache);
	dirty(file, 40, 1);
	CHECK(pc_flusher_seq(rig.cache) != seq); /* above its own background, though not above the cache's */
}
