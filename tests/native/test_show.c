/*
 * Displayed values: states of pages in slices, one number of a file, lengths of queues, durations of calls.
 *
 * A walk is compared with the sets of every page; slices of every size give the result of one.
 */
#include "rig.h"

enum { ROOM = 1 << 22, RUNS = 4096 };

static struct rig rig;
static struct file *file;
static u8 bytes[ROOM];

static void start(u64 size, u64 max_folio)
{
	rig_open(&rig, 8 << 20, max_folio);
	file = file_open(&rig, size, ROOM);
	for (u32 k = 0; k < ROOM; k++)
		bytes[k] = (u8)(k * 31 + k / 256 + 3);
}

static void put(u64 pos, u64 len)
{
	EQUAL(file_write(file, pos, bytes + pos, len), 0);
}

struct shown {
	u64 runs[3 * RUNS];
	u32 nr, folios, slices;
};

/* All slices of [pos, end), with room for n runs in each; runs that meet are joined, as the caller of the core does. */
static void show(struct shown *s, u64 pos, u64 end, size_t n)
{
	u64 runs[3 * 512];
	memset(s, 0, sizeof(*s));
	while (pos < end) {
		struct pc_shown out;
		CHECK(pc_show_states(file->inode, pc_inode_id(file->inode), pos, end, runs, n, &out));
		CHECK(out.next > pos && out.next <= end && out.runs <= n);
		for (u32 k = 0; k < out.runs; k++) {
			u64 *run = runs + 3 * k, *last = s->nr ? s->runs + 3 * (s->nr - 1) : NULL;
			if (last && last[2] == run[2] && last[0] + last[1] == run[0]) {
				last[1] += run[1];
				continue;
			}
			CHECK(s->nr < RUNS);
			memcpy(s->runs + 3 * s->nr++, run, 3 * sizeof(*run));
		}
		s->folios += out.folios;
		s->slices++;
		pos = out.next;
	}
}

static void expect_run(const struct shown *s, u32 k, u64 pos, u64 len, u64 state)
{
	CHECK(k < s->nr);
	EQUAL(s->runs[3 * k], pos);
	EQUAL(s->runs[3 * k + 1], len);
	EQUAL(s->runs[3 * k + 2], state);
}

static void check_pages_show_their_most_urgent_state(void)
{
	static struct shown s;
	start(16 * PAGE, 64 * PAGE);
	EQUAL(fill_range(file, 0, 4 * PAGE), 0);
	put(1 * PAGE + 7, 100);
	show(&s, 0, 16 * PAGE, 64);
	EQUAL(s.nr, 3);
	expect_run(&s, 0, 0, PAGE, PC_SHOW_CLEAN);
	expect_run(&s, 1, PAGE, PAGE, PC_SHOW_DIRTY);
	expect_run(&s, 2, 2 * PAGE, 2 * PAGE, PC_SHOW_CLEAN);
	flush(file);
	show(&s, 0, 16 * PAGE, 64);
	expect_run(&s, 1, PAGE, PAGE, PC_SHOW_UNSTABLE);
	struct pc_pin pin;
	struct pc_need need;
	EQUAL(pc_pin(file->inode, 3 * PAGE, 1, false, &pin, &need), 0);
	show(&s, 3 * PAGE, 3 * PAGE + 1, 64);
	EQUAL(s.nr, 1);
	expect_run(&s, 0, 3 * PAGE, PAGE, PC_SHOW_PINNED);
	show(&s, PAGE, 2 * PAGE, 64);
	expect_run(&s, 0, PAGE, PAGE, PC_SHOW_UNSTABLE); /* more urgent than the pin of its folio */
	pc_unpin(rig.cache, &pin);
	EQUAL(file_sync(file), 0);
	show(&s, 0, 16 * PAGE, 64);
	EQUAL(s.nr, 1);
	expect_run(&s, 0, 0, 4 * PAGE, PC_SHOW_CLEAN);
	rig_close(&rig);
}

static void check_a_fill_that_runs_is_shown_where_nothing_is_valid_yet(void)
{
	static struct shown s;
	struct pc_request *r = NULL;
	struct pc_need need;
	start(16 * PAGE, PAGE);
	put(2 * PAGE, PAGE);
	EQUAL(pc_fill_begin(file->inode, 0, 2 * PAGE, &need, &r), 0);
	CHECK(r);
	show(&s, 0, 16 * PAGE, 64);
	EQUAL(s.nr, 2);
	expect_run(&s, 0, 0, 2 * PAGE, PC_SHOW_FILLING);
	expect_run(&s, 1, 2 * PAGE, PAGE, PC_SHOW_DIRTY);
	EQUAL(run_fill(file, r), 0);
	show(&s, 0, 2 * PAGE, 64);
	expect_run(&s, 0, 0, 2 * PAGE, PC_SHOW_CLEAN);
	EQUAL(file_sync(file), 0);
	rig_close(&rig);
}

/* Every other page is dirty: each slice ends for another reason. */
static void check_slices_of_any_size_say_the_same(void)
{
	static struct shown whole, cut;
	static const u64 folios[] = {PAGE, 16 * PAGE, 512 * PAGE};
	for (u32 k = 0; k < 3; k++) {
		start(ROOM, folios[k]);
		EQUAL(fill_range(file, 0, 300 * PAGE), 0);
		for (u64 page = 1; page < 700; page += 2)
			put(page * PAGE + 1, 1);
		show(&whole, 0, ROOM, 512);
		CHECK(whole.nr >= 350);
		for (u32 n = 1; n < 512; n += 37) {
			show(&cut, 0, ROOM, n);
			EQUAL(cut.nr, whole.nr);
			CHECK(!memcmp(cut.runs, whole.runs, whole.nr * 3 * sizeof(u64)));
		}
		CHECK(cut.slices >= 700 / 512);
		EQUAL(file_sync(file), 0);
		rig_close(&rig);
	}
}

/* However large the file, one slice examines no more than its share. */
static void check_a_slice_is_bounded(void)
{
	u64 runs[3 * 512];
	struct pc_shown out;
	start(ROOM, PAGE);
	EQUAL(fill_range(file, 0, 600 * PAGE), 0);
	CHECK(pc_show_states(file->inode, pc_inode_id(file->inode), 0, ROOM, runs, 512, &out));
	EQUAL(out.folios, 64);
	EQUAL(out.next, 64 * PAGE);
	rig_close(&rig);
	start(ROOM, 1024 * PAGE);
	put(0, 1);
	put(1023 * PAGE, 1);
	CHECK(pc_show_states(file->inode, pc_inode_id(file->inode), 0, ROOM, runs, 1, &out));
	EQUAL(out.runs, 1);
	CHECK(out.next <= 1023 * PAGE);
	EQUAL(file_sync(file), 0);
	rig_close(&rig);
}

static void check_of_an_inode_that_is_gone_nothing_is_shown(void)
{
	u64 runs[3];
	struct pc_shown out;
	start(PAGE, PAGE);
	put(0, PAGE);
	u64 id = pc_inode_id(file->inode);
	EQUAL(pc_show_number(file->inode, id, PC_BY_DIRTY), PAGE);
	CHECK(!pc_show_states(file->inode, id + 1, 0, PAGE, runs, 1, &out));
	EQUAL(out.runs, 0);
	EQUAL(pc_show_number(file->inode, id + 1, PC_BY_DIRTY), 0);
	EQUAL(file_sync(file), 0);
	EQUAL(pc_show_number(file->inode, id, PC_BY_AGE), 0);
	rig_close(&rig);
}

static void check_the_queue_is_counted_by_class(void)
{
	u32 waiting[PC_WORK_CLASSES];
	start(4 * PAGE, PAGE);
	put(0, PAGE);
	pc_job_push(rig.volume, PC_WORK_NAMES);
	pc_flush_start(file->inode, UINT64_MAX >> 16, 0, UINT64_MAX);
	pc_show_queue(rig.volume, waiting);
	EQUAL(waiting[PC_WORK_NAMES], 1);
	EQUAL(waiting[PC_WORK_INTEGRITY], 1);
	EQUAL(waiting[PC_WORK_COMMIT] + waiting[PC_WORK_FILL] + waiting[PC_WORK_BACKGROUND] +
		      waiting[PC_WORK_READAHEAD],
	      0);
	struct pc_work w;
	pc_work_next(rig.volume, &w);
	EQUAL(w.kind, PC_WORK_JOB);
	EQUAL(file_sync(file), 0);
	rig_close(&rig);
}

static void count(u64 ns, u32 k)
{
	u64 before[PC_LATENCY_BOUNDS + 1], after[PC_LATENCY_BOUNDS + 1];
	u64 sum = pc_latency_get(rig.volume, PC_TIMED_WRITE, before);
	pc_latency_add(rig.volume, PC_TIMED_WRITE, ns);
	EQUAL(pc_latency_get(rig.volume, PC_TIMED_WRITE, after), sum + ns);
	for (u32 j = 0; j <= PC_LATENCY_BOUNDS; j++)
		EQUAL(after[j], before[j] + (j == k));
}

static void check_a_duration_is_counted_at_the_first_bound_that_it_did_not_exceed(void)
{
	u64 counts[PC_LATENCY_BOUNDS + 1];
	start(PAGE, PAGE);
	count(0, 0);
	count(1, 0);
	for (u32 k = 0; k < PC_LATENCY_BOUNDS; k++) {
		u64 bound = 1000ull << k;
		count(bound - 1, k);
		count(bound, k);
		count(bound + 1, k + 1);
	}
	count(UINT64_MAX / 4, PC_LATENCY_BOUNDS);
	EQUAL(pc_latency_get(rig.volume, PC_TIMED_READ, counts), 0);
	rig_close(&rig);
}

/* ---------------------------------------------------------------- beside writers */

static _Atomic bool over;

static void *write_on(void *unused)
{
	(void)unused;
	for (u32 k = 0; k < 20000; k++) {
		u64 pos = (k * 7919u) % (ROOM - 64);
		file_write(file, pos, bytes + pos, 64);
		pc_latency_add(rig.volume, PC_TIMED_READ, k);
		if (k % 512 == 0)
			EQUAL(file_sync(file), 0);
	}
	atomic_store(&over, true);
	return NULL;
}

static void check_a_walk_beside_a_writer_says_what_can_be(void)
{
	static struct shown s;
	u64 counts[PC_LATENCY_BOUNDS + 1];
	pthread_t writer;
	start(ROOM, 16 * PAGE);
	atomic_store(&over, false);
	EQUAL(pthread_create(&writer, NULL, write_on, NULL), 0);
	while (!atomic_load(&over)) {
		show(&s, 0, ROOM, 256);
		for (u32 k = 0; k < s.nr; k++) {
			CHECK(s.runs[3 * k + 2] < PC_SHOW_NOTHING);
			CHECK(s.runs[3 * k] % PAGE == 0 && s.runs[3 * k + 1] % PAGE == 0);
			CHECK(k == 0 || s.runs[3 * k - 3] + s.runs[3 * k - 2] <= s.runs[3 * k]);
		}
		pc_latency_get(rig.volume, PC_TIMED_READ, counts);
		pc_show_number(file->inode, pc_inode_id(file->inode), PC_BY_CACHED);
	}
	pthread_join(writer, NULL);
	EQUAL(file_sync(file), 0);
	rig_close(&rig);
}

/* ---------------------------------------------------------------- a struct reused for another file */

static struct pc_volume *other;
static struct pc_inode *stale;
static u64 stale_id;
static _Atomic bool over;

static struct pc_inode *make_other(void)
{
	struct pc_limits limits = limits_wide();
	struct pc_inode *i;
	EQUAL(pc_inode_create(other, PAGE, &limits, true, &i), 0);
	return i;
}

static void open_with_stale(void)
{
	start(PAGE, PAGE);
	other = volume_open(&rig);
	stale = make_other();
	stale_id = pc_inode_id(stale);
	EQUAL(pc_inode_destroy(stale), 0);
}

static void *make_one(void *unused)
{
	(void)unused;
	CHECK(make_other() == stale);
	return NULL;
}

static void *show_stale(void *unused)
{
	(void)unused;
	EQUAL(pc_show_number(stale, stale_id, PC_BY_CACHED), 0);
	return NULL;
}

/* A query for a file that is gone comes while its struct is reused for another one. */
static void check_a_file_that_becomes_another_is_not_found(void)
{
	pthread_t maker, shower;
	open_with_stale();
	pc_sync_arm("inode_emptied", 0);
	pc_sync_arm("show_before_lock", 0);
	pthread_create(&maker, NULL, make_one, NULL);
	while (!pc_sync_arrived("inode_emptied"))
		sched_yield();
	pthread_create(&shower, NULL, show_stale, NULL);
	while (!pc_sync_arrived("show_before_lock"))
		sched_yield();
	pc_sync_release("inode_emptied");
	pc_sync_release("show_before_lock");
	pthread_join(maker, NULL);
	pthread_join(shower, NULL);
	EQUAL(pc_inode_destroy(stale), 0);
	rig_close(&rig);
}

static void *read_repeatedly(void *unused)
{
	u64 runs[3];
	struct pc_counters counters;
	struct pc_usage usage;
	struct pc_shown out;
	u32 waiting[PC_WORK_CLASSES];
	(void)unused;
	while (!atomic_load(&over)) {
		pc_volume_counters(rig.volume, &counters, &usage);
		EQUAL(usage.cached, PAGE);
		EQUAL(pc_show_number(stale, stale_id, PC_BY_CACHED), 0);
		CHECK(!pc_show_states(stale, stale_id, 0, PAGE, runs, 1, &out));
		pc_show_queue(rig.volume, waiting);
		u32 credit = pc_credit_try(rig.volume);
		CHECK(credit);
		pc_credit_put(rig.volume, credit);
		CHECK(!pc_some_failed(file->inode));
		sched_yield();
	}
	return NULL;
}

/* Lock-free reads run beside files of another volume that come and go, limits that change, and writes. */
static void check_numbers_are_read_beside_changes_of_everything(void)
{
	pthread_t readers[2];
	open_with_stale();
	put(0, PAGE);
	atomic_store(&over, false);
	for (int k = 0; k < 2; k++)
		pthread_create(&readers[k], NULL, read_repeatedly, NULL);
	for (u32 k = 0; k < 300; k++) {
		struct pc_inode *one = make_other(), *two = make_other();
		EQUAL(pc_inode_destroy(one), 0);
		EQUAL(pc_inode_destroy(two), 0);
		pc_volume_set_inflight(rig.volume, 4 + k % 8);
		if (k % 10 == 0) {
			put(0, PAGE);
			EQUAL(flush(file), 0);
			pc_volume_abort(other);
			pc_volume_resume(other);
		}
	}
	atomic_store(&over, true);
	for (int k = 0; k < 2; k++)
		pthread_join(readers[k], NULL);
	EQUAL(file_sync(file), 0);
	rig_close(&rig);
}

int main(void)
{
	RUN(check_pages_show_their_most_urgent_state);
	RUN(check_a_fill_that_runs_is_shown_where_nothing_is_valid_yet);
	RUN(check_slices_of_any_size_say_the_same);
	RUN(check_a_slice_is_bounded);
	RUN(check_of_an_inode_that_is_gone_nothing_is_shown);
	RUN(check_the_queue_is_counted_by_class);
	RUN(check_a_duration_is_counted_at_the_first_bound_that_it_did_not_exceed);
	RUN(check_a_walk_beside_a_writer_says_what_can_be);
	RUN(check_a_file_that_becomes_another_is_not_found);
	RUN(check_numbers_are_read_beside_changes_of_everything);
	check_fails_without("inode_keeps_its_cache", check_a_file_that_becomes_another_is_not_found);
	return 0;
}
