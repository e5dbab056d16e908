/* Memory that views may store to: the bytes sent of it, calls that cut it off from the file, the races around a pin. */
#include "rig.h"

enum { ROOM = 1 << 20 };

static void start_with(u64 size, u64 capacity, u64 max_folio, struct pc_limits l)
{
	open_one(capacity, max_folio, size, ROOM, l);
	file->store.unit = l.write_unit;
}

/* All of it is cached, in the largest possible folios. */
static void start(u64 size, u64 max_folio)
{
	start_with(size, 4 << 20, max_folio, limits_wide());
	u8 *bytes = malloc(size + 1);
	EQUAL(file_read(file, 0, bytes, size), size);
	free(bytes);
}

static struct pc_pin pin(u64 pos, u64 len)
{
	struct pc_pin p;
	lock_inode(file, PC_EXCLUSIVE);
	EQUAL(pin_to_store(file, pos, len, &p), 0);
	pc_inode_lock_release(file->inode, PC_EXCLUSIVE);
	EQUAL(p.len, len);
	return p;
}

static void store(const struct pc_pin *p, u8 value)
{
	u8 *bytes = malloc(p->len);
	memset(bytes, value, p->len);
	view_store(p->memory, bytes, p->len);
	free(bytes);
}

TEST(check_background_passes_skip_it)
{
	start(64 << 10, PAGE);
	struct pc_pin p = pin(0, PAGE);
	put(PAGE, PAGE, 1);
	for (int released = 0; released <= 1; released++) {
		CHECK(pc_pass_background(file->inode, 1 << 20, false));
		struct pc_request *r = next_write();
		EQUAL(r->start, released ? 0 : PAGE);
		EQUAL(r->end, r->start + PAGE);
		run_write(file, r);
		pass_is_over();
		CHECK(NUMBER(file->inode, PASS_IDLE));
		if (!released)
			pc_unpin(rig.cache, &p);
	}
}

/* Whole units, with neighbours from the cache and from storage; blocks that lie in two units. */
TEST(check_units_are_sent_as_copies)
{
	u64 units[] = {512, PAGE, 12288, 5000, 65536};
	for (u32 k = 0; k < 5; k++) {
		start_with(100000, 4 << 20, 16 << 10, LIMITS(.write_unit = units[k], .max_write = 2 * units[k]));
		struct pc_pin p = pin(20000, 200), q = pin(99000, 1000);
		put(40000, 3000, 9);
		store(&p, 1);
		store(&q, 2);
		SAVES({20000, 1}, {19999, first_byte(19999)}, {99999, 2}, {42999, 9});
		store(&p, 3);
		pc_unpin(rig.cache, &p);
		pc_unpin(rig.cache, &q);
		SAVES({20199, 3});
		EQUAL(usage(file, NULL).local, 0);
	}
}

/* In a unit too the bytes of a call stand still, and no writer waits for it. */
TEST(check_a_unit_in_flight_stands_still)
{
	start_with(64 << 10, 4 << 20, 16 << 10, LIMITS(.write_unit = 4 * PAGE));
	struct pc_pin p = pin(100, 200);
	put(2 * PAGE, PAGE, 5);
	store(&p, 1);
	struct pc_request *r = hand_over();
	EQUAL(run_gather(file, r), 0);
	struct call c = next_call(r);
	u64 sum = sum_of(c.parts, c.n);
	store(&p, 2);
	put(120, 10, 3);
	EQUAL(sum_of(c.parts, c.n), sum);
	SOUND(&rig);
	CHECK(run_write(file, r));
	BYTES_OF(file->store.bytes, {100, 1}, {2 * PAGE, 5});
	pc_unpin(rig.cache, &p);
	SAVES({100, 2}, {120, 3});
}

/* Given up before its first call: nothing was copied, everything is dirty as before. */
TEST(check_a_request_without_a_call)
{
	u64 units[] = {0, 4 * PAGE};
	for (u32 k = 0; k < 2; k++) {
		start_with(64 << 10, 4 << 20, 16 << 10, LIMITS(.write_unit = units[k]));
		struct pc_pin p = pin(0, 2 * PAGE);
		put(2 * PAGE, PAGE, 1);
		pc_request_settle(hand_over());
		SOUND(&rig);
		EQUAL(usage(file, NULL).writeback, 0);
		EQUAL(usage(file, NULL).dirty, 3 * PAGE);
		pc_unpin(rig.cache, &p);
		EQUAL(usage(file, NULL).pinned, 0);
		pc_retry(file->inode, 0, ALL, true);
		EQUAL(file_sync(file), 0);
		EQUAL(usage(file, NULL).local, 0);
	}
}

/* Without memory for a copy nothing is cut, and nothing is truncated. */
TEST(check_truncate_is_refused_without_memory)
{
	struct pc_pin all[16];
	start_with(64 * PAGE, 16 * PAGE, PAGE, limits_wide());
	struct pc_pin p = pin(0, PAGE);
	for (u64 k = 1; k < 16; k++) {
		byte_at(k * PAGE);
		all[k] = read_pin(k * PAGE, 1);
	}
	stop_the_file(file, 0, ALL);
	EQUAL(pc_views_reserve(file->inode, 100), (u64)-ENOMEM);
	EQUAL(pc_views_cut(file->inode, 0, ALL, false), (u64)-ENOMEM);
	pc_unpin(rig.cache, &all[1]);
	EQUAL(pc_views_reserve(file->inode, 100), 0);
	SOUND(&rig);
	pc_views_unreserve(file->inode);
	let_the_file_go(file);
	CHECK(!pc_pin_detached(rig.cache, &p));
	for (u64 k = 2; k < 16; k++)
		pc_unpin(rig.cache, &all[k]);
	pc_unpin(rig.cache, &p);
}

/* Another thread holds a clean page: only dirty ones are looked at. */
TEST(check_a_cut_passes_clean_pages_by)
{
	start(64 << 10, PAGE);
	struct pc_pin p = pin(8 * PAGE, 100);
	put(3 * PAGE, 10, 1);
	struct pc_folio *clean = folio_at(file, PAGE);
	CHECK(pc_folio_trylock(clean));
	take_token(file);
	alarm(10);
	EQUAL(pc_views_cut(file->inode, 0, ALL, false), 0);
	alarm(0);
	pc_token_release(file->inode);
	pc_folio_unlock(rig.cache, clean);
	CHECK(pc_pin_detached(rig.cache, &p));
	pc_unpin(rig.cache, &p);
}

/* A view that comes between the two steps of a discard is later than it, and keeps its memory. */
TEST(check_a_view_comes_while_a_part_is_discarded)
{
	start(64 << 10, 16 << 10);
	put(0, 3 * PAGE, 9);
	take_token(file);
	EQUAL(pc_views_cut(file->inode, PAGE, 3 * PAGE, true), 0);
	struct pc_pin p = pin(PAGE, 100);
	u64 ranges[8];
	pc_discard(file->inode, PAGE, 3 * PAGE, true);
	RANGES(ranges, pc_discarded(file->inode, ranges, 4), 2 * PAGE, 3 * PAGE);
	pc_token_release(file->inode);
	SOUND(&rig);
	CHECK(!pc_pin_detached(rig.cache, &p));
	store(&p, 1);
	SAVES({0, 9}, {PAGE, 1}, {2 * PAGE, first_byte(2 * PAGE)});
	pc_unpin(rig.cache, &p);
}

static struct pc_pin raced;

THREAD(punch_once, pc_punch(file->inode, 100, 2 * PAGE, false))

/* A view over a hole of a part of its folio stores behind the zeros, and ends before the call does: that is dirty, and written. */
TEST(check_a_view_over_a_hole_ends_beside_it)
{
	u64 spans[8];
	start(64 << 10, 16 << 10);
	raced = pin(0, 3 * PAGE);
	take_token(file);
	pthread_t t = held_at("cut_zeroed", punch_once, NULL);
	store(&raced, 7);
	pc_unpin(rig.cache, &raced);
	let_go("cut_zeroed", t);
	pc_token_release(file->inode);
	SOUND(&rig);
	RANGES(spans, pc_ranges(file->inode, PC_RANGES_WRITTEN, spans, 4), 0, 3 * PAGE);
	SAVES({100, 7}, {PAGE, 7}, {2 * PAGE, 7});
}

THREAD(put_once, put(0, 50, 2))

static struct pc_need unmet;

THREAD_OF(pin_the_second_page, pc_pin(file->inode, PAGE, 100, true, &raced, &unmet))

/* A discard of the file's local end moves the end before a view that is being made, or meets the view. [I-9, I-10] */
TEST(check_a_view_comes_while_a_discard_moves_the_end)
{
	for (int made = 0; made <= 1; made++) {
		u64 end = made ? 2 * PAGE : PAGE;
		start(PAGE, PAGE);
		put(2 * PAGE, PAGE, 1);
		EQUAL(byte_at(PAGE), 0);
		lock_inode(file, PC_EXCLUSIVE);
		if (made)
			CHECK(!pin_the_second_page(NULL));
		pthread_t t = made ? 0 : held_at("pin_before_dirty", pin_the_second_page, NULL);
		EQUAL(file_discard(file, 2 * PAGE, 3 * PAGE, NULL, 0), 1);
		if (!made)
			EQUAL((intptr_t)let_go("pin_before_dirty", t), -ENXIO);
		pc_inode_lock_release(file->inode, PC_EXCLUSIVE);
		EQUAL(pc_inode_size(file->inode), end);
		SOUND(&rig);
		if (made)
			pc_unpin(rig.cache, &raced);
		EQUAL(file_sync(file), 0);
		EQUAL(file->store.stable_size, end);
	}
}

/* A writer copies on conflict while a view comes: the view keeps the memory, the writer waits for the call. */
TEST(check_a_view_comes_while_the_folio_gets_other_memory)
{
	start(0, PAGE);
	put(0, PAGE, 1);
	struct pc_request *r = hand_over();
	check_threads = true;
	pthread_t t = held_at("exchange_copied", put_once, NULL);
	raced = read_pin(0, 100);
	pc_sync_release("exchange_copied");
	while (!(state_at(file, 0) & PC_F_WRITER_WAITS))
		usleep(200);
	run_write(file, r);
	pthread_join(t, NULL);
	check_threads = false;
	SOUND(&rig);
	EQUAL(raced.memory[0], 2);
	CHECK(!pc_pin_detached(rig.cache, &raced));
	pc_unpin(rig.cache, &raced);
}

TEST(check_a_quarter_of_the_memory_may_be_pinned)
{
	struct pc_need need = {0};
	struct pc_pin pins[16], p;
	start_with(64 * PAGE, 64 * PAGE, PAGE, limits_wide());
	for (u64 k = 0; k < 16; k++)
		pins[k] = pin(k * PAGE, 10);
	lock_inode(file, PC_EXCLUSIVE);
	while ((u64)pc_pin(file->inode, 20 * PAGE, 10, true, &p, &need) == (u64)-EAGAIN)
		EQUAL(provide(file, &need), 0);
	EQUAL(pc_pin(file->inode, 20 * PAGE, 10, true, &p, &need), (u64)-ENOBUFS);
	EQUAL(pc_pin(file->inode, 3 * PAGE, 10, true, &p, &need), 0); /* one block more than once */
	pc_inode_lock_release(file->inode, PC_EXCLUSIVE);
	CHECK(pc_dirty_room(file->inode, PAGE)); /* no writer waits for views */
	EQUAL(pc_volume_number(rig.volume, PC_VOLUME_LOCAL), 0);
	SOUND(&rig);
	pc_unpin(rig.cache, &p);
	EQUAL(usage(file, NULL).write_pinned, 16 * PAGE);
	for (u64 k = 0; k < 16; k++)
		pc_unpin(rig.cache, &pins[k]);
	EQUAL(pc_volume_number(rig.volume, PC_VOLUME_LOCAL), 16 * PAGE);
	EQUAL(file_sync(file), 0);
	EQUAL(usage(file, NULL).local, 0);
}
