/*
 * The ring of a trace: records whole or not at all, the oldest go first, and an order that matches the history of each
 * byte.
 */
#include "rig.h"

enum { THREADS = 8, EACH = 20000, ROUNDS = 40 };

static struct rig rig;
static _Atomic bool stop;

/* Make a test record of number n; its fields show a reader at once whether they belong together. */
static void make(struct pc_cache *c, u64 n)
{
	pc_record_event(c, PC_R_STATE, (u16)n, n, n * 3, n * 5, n * 7, n * 11);
}

static void judge(const struct pc_record *r)
{
	u64 n = r->file;
	CHECK(r->kind == PC_R_STATE && r->what == (u16)n && r->thread && r->at);
	EQUAL(r->pos, n * 3);
	EQUAL(r->len, n * 5);
	EQUAL(r->id, n * 7);
	EQUAL(r->value, n * 11);
}

static u64 read_all(struct pc_cache *c, u64 first, u64 end)
{
	struct pc_record out[16];
	u64 found = 0, last = 0, n;
	while ((n = pc_record_read(c, &first, end, out, 16)))
		for (u64 k = 0; k < n; k++, found++) {
			judge(&out[k]);
			CHECK(out[k].seq > last);
			last = out[k].seq;
		}
	return found;
}

static void check_records_come_back_in_their_order(void)
{
	u64 first, end, lost;
	rig_open(&rig, 1 << 20, PAGE);
	CHECK(!pc_recording(rig.cache));
	EQUAL(pc_record_start(rig.cache, 3), -EINVAL);
	EQUAL(pc_record_start(rig.cache, 0), -EINVAL);
	EQUAL(pc_record_start(rig.cache, 64), 0);
	EQUAL(pc_record_start(rig.cache, 64), -EBUSY);
	for (u64 k = 0; k < 40; k++)
		make(rig.cache, k);
	EQUAL(pc_record_stop(rig.cache, &first, &end, &lost), 40);
	EQUAL(end - first, 40);
	EQUAL(lost, 0);
	make(rig.cache, 99); /* recording has stopped */
	EQUAL(read_all(rig.cache, first, end), 40);
	EQUAL(pc_record_start(rig.cache, 64), -EBUSY); /* it is still being read */
	pc_record_free(rig.cache);
	EQUAL(read_all(rig.cache, first, end), 0);
	rig_close(&rig);
}

static void check_the_oldest_records_go_and_are_counted(void)
{
	u64 first, end, lost;
	rig_open(&rig, 1 << 20, PAGE);
	for (u32 size = 64; size >= 32; size /= 2) { /* the ring of another trace is another one */
		EQUAL(pc_record_start(rig.cache, size), 0);
		for (u64 k = 0; k < 1000; k++)
			make(rig.cache, k);
		EQUAL(pc_record_stop(rig.cache, &first, &end, &lost), 1000);
		EQUAL(end - first, size);
		EQUAL(lost, 0);
		struct pc_record one;
		u64 at = first;
		EQUAL(pc_record_read(rig.cache, &at, end, &one, 1), 1);
		EQUAL(one.file, 1000 - size);
		EQUAL(read_all(rig.cache, first, end), size);
		pc_record_free(rig.cache);
	}
	rig_close(&rig);
}

static void *make_many(void *argument)
{
	u64 from = (u64)(uintptr_t)argument * EACH;
	for (u64 k = 0; k < EACH; k++)
		make(rig.cache, from + k);
	return NULL;
}

static void check_eight_threads_lose_no_record_of_a_ring_that_is_large_enough(void)
{
	pthread_t threads[THREADS];
	static u8 seen[THREADS * EACH];
	u64 first, end, lost;
	rig_open(&rig, 1 << 20, PAGE);
	EQUAL(pc_record_start(rig.cache, 1 << 18), 0);
	for (uintptr_t k = 0; k < THREADS; k++)
		pthread_create(&threads[k], NULL, make_many, (void *)k);
	for (u32 k = 0; k < THREADS; k++)
		pthread_join(threads[k], NULL);
	EQUAL(pc_record_stop(rig.cache, &first, &end, &lost), THREADS * EACH);
	EQUAL(lost, 0);
	struct pc_record one;
	for (u64 at = first; pc_record_read(rig.cache, &at, end, &one, 1);) {
		judge(&one);
		CHECK(!seen[one.file]++);
	}
	for (u32 k = 0; k < THREADS * EACH; k++)
		CHECK(seen[k]);
	pc_record_free(rig.cache);
	rig_close(&rig);
}

static void *make_for_ever(void *argument)
{
	for (u64 k = (u64)(uintptr_t)argument << 32; !atomic_load(&stop); k++)
		if (pc_recording(rig.cache))
			make(rig.cache, k);
		else
			sched_yield();
	return NULL;
}

/* Rings far too small, so that writers collide in slots; traces that begin and end under them, so that some come
 * late. */
static void check_no_record_is_ever_half_another(void)
{
	pthread_t threads[THREADS];
	u64 first, end, lost, made = 0, read = 0;
	rig_open(&rig, 1 << 20, PAGE);
	atomic_store(&stop, false);
	for (uintptr_t k = 0; k < THREADS; k++)
		pthread_create(&threads[k], NULL, make_for_ever, (void *)(k + 1));
	for (u32 k = 0; k < ROUNDS; k++) {
		struct timespec t = {0, 2 * 1000 * 1000};
		EQUAL(pc_record_start(rig.cache, k % 2 ? 8 : 1024), 0);
		nanosleep(&t, NULL);
		made += pc_record_stop(rig.cache, &first, &end, &lost);
		read += read_all(rig.cache, first, end);
		pc_record_free(rig.cache);
	}
	atomic_store(&stop, true);
	for (u32 k = 0; k < THREADS; k++)
		pthread_join(threads[k], NULL);
	CHECK(made > read && read > 0);
	rig_close(&rig);
}

/* ---------------------------------------------------------------- the path of bytes */

static struct pc_record trail[256];

static u32 collect(struct pc_cache *c)
{
	u64 first, end, lost;
	pc_record_stop(c, &first, &end, &lost);
	u32 n = (u32)pc_record_read(c, &first, end, trail, 256);
	pc_record_free(c);
	return n;
}

static u32 find(u32 n, u32 from, int kind)
{
	while (from < n && trail[from].kind != kind)
		from++;
	CHECK(from < n);
	return from;
}

static void check_a_write_is_seen_from_its_copy_to_its_commit(void)
{
	static const u8 bytes[100] = "x";
	struct pc_need need;
	rig_open(&rig, 1 << 20, PAGE);
	struct file *f = file_open(&rig, 0, 1 << 20);
	EQUAL(pc_record_start(rig.cache, 256), 0);
	u64 outer = pc_record_enter(77);
	lock_inode(f, PC_EXCLUSIVE);
	EQUAL(pc_write(f->inode, 10, bytes, 100, &need), 100);
	EQUAL(pc_write(f->inode, 50, bytes, 100, &need), 100); /* dirty already */
	pc_inode_lock_release(f->inode, PC_EXCLUSIVE);
	EQUAL(pc_record_enter(outer), 77);
	u64 stamp = pc_epoch_take(rig.volume);
	EQUAL(fsync_stamp(f, stamp), 0);
	u32 n = collect(rig.cache);
	u32 wrote = find(n, 0, PC_R_WROTE), again = find(n, wrote + 1, PC_R_WROTE), request = find(n, 0, PC_R_REQUEST);
	EQUAL(trail[wrote].id, 77);
	EQUAL(trail[wrote].pos, 10);
	EQUAL(trail[wrote].len, 100);
	CHECK(trail[wrote].value <= stamp && trail[again].value <= stamp && trail[again].pos == 50);
	u32 issued = find(n, again, PC_R_ISSUED), acked = find(n, issued, PC_R_ACKED);
	EQUAL(trail[issued].pos, 0); /* the bytes before it in its page are zeros of a new file */
	EQUAL(trail[issued].len, 150);
	CHECK(trail[issued].id == trail[request].id && trail[acked].id == trail[request].id);
	u32 commit = find(n, acked, PC_R_COMMIT);
	CHECK(trail[commit].flags & PC_R_BEGINS);
	commit = find(n, commit + 1, PC_R_COMMIT);
	CHECK(trail[commit].began && trail[commit].at >= trail[commit].began && !(trail[commit].flags & PC_R_FAILED));
	rig_close(&rig);
}

/* ---------------------------------------------------------------- the order of records when threads come in between */

static struct file *held_file;

/* Let `run` go on until it is past the change that it records, and hold it there while `meanwhile` runs. Return:
 * number of records made. */
static u32 beside(const char *point, void *(*run)(void *), void (*meanwhile)(struct file *))
{
	pthread_t thread;
	pc_sync_arm(point, 0);
	pthread_create(&thread, NULL, run, NULL);
	while (!pc_sync_arrived(point))
		sched_yield();
	meanwhile(held_file);
	pc_sync_release(point);
	pthread_join(thread, NULL);
	return collect(rig.cache);
}

/* A traced file with a written page. */
static void open_traced(void)
{
	static const u8 bytes[PAGE] = "x";
	rig_open(&rig, 1 << 20, PAGE);
	held_file = file_open(&rig, 0, 1 << 20);
	EQUAL(pc_record_start(rig.cache, 256), 0);
	EQUAL(file_write(held_file, 0, bytes, PAGE), 0);
}

static void *write_once(void *unused)
{
	static const u8 bytes[PAGE] = "y";
	(void)unused;
	EQUAL(file_write(held_file, PAGE, bytes, PAGE), 0);
	return NULL;
}

static void *work_once(void *unused)
{
	(void)unused;
	CHECK(work(rig.volume));
	return NULL;
}

static void *end_commit(void *unused)
{
	(void)unused;
	pc_commit_end(held_file->inode, store_commit(&held_file->store) == 0, PC_COMMIT_AGAIN);
	return NULL;
}

static void flush_all(struct file *f)
{
	EQUAL(flush(f), 0);
}

static void write_again(struct file *f)
{
	static const u8 bytes[PAGE] = "z";
	EQUAL(file_write(f, 0, bytes, PAGE), 0);
}

static void commit_all(struct file *f)
{
	CHECK(begin_commit(f));
	pc_commit_end(f->inode, store_commit(&f->store) == 0, PC_COMMIT_AGAIN);
}

static void write_again_and_flush(struct file *f)
{
	write_again(f);
	flush_all(f);
}

/* Otherwise the bytes would be written back before their write is on record: a write without an arrow. */
static void check_a_write_is_recorded_before_it_can_be_written_back(void)
{
	open_traced();
	flush_all(held_file);
	u32 n = beside("write_left_folio", write_once, flush_all);
	u32 wrote = find(n, find(n, 0, PC_R_WROTE) + 1, PC_R_WROTE);
	EQUAL(trail[wrote].pos, PAGE);
	EQUAL(trail[find(n, wrote, PC_R_ISSUED)].pos, PAGE);
	rig_close(&rig);
}

/* Otherwise the later bytes would have an arrow to a request that does not carry them. */
static void check_a_write_back_is_recorded_before_its_bytes_can_be_written_again(void)
{
	open_traced();
	pc_flush_start(held_file->inode, ALL, 0, ALL);
	u32 n = beside("hand_over_done", work_once, write_again);
	u32 issued = find(n, find(n, 0, PC_R_WROTE), PC_R_ISSUED);
	find(n, issued, PC_R_WROTE);
	flush_all(held_file);
	rig_close(&rig);
}

/* Otherwise a commit would be over before the record showed that it had these bytes. */
static void check_an_answer_is_recorded_before_it_can_be_committed(void)
{
	open_traced();
	pc_flush_start(held_file->inode, ALL, 0, ALL);
	u32 n = beside("write_ended", work_once, commit_all);
	find(n, find(n, 0, PC_R_ACKED), PC_R_COMMIT);
	rig_close(&rig);
}

/* Otherwise it would seem to cover bytes that were acknowledged after it. */
static void check_a_commit_is_recorded_before_anything_can_be_acknowledged_after_it(void)
{
	open_traced();
	flush_all(held_file);
	CHECK(begin_commit(held_file));
	u32 n = beside("commit_ended", end_commit, write_again_and_flush);
	u32 began = find(n, 0, PC_R_COMMIT), ended = find(n, began + 1, PC_R_COMMIT);
	CHECK(trail[began].flags & PC_R_BEGINS && !(trail[ended].flags & PC_R_BEGINS));
	find(n, ended, PC_R_ACKED);
	EQUAL(file_sync(held_file), 0);
	rig_close(&rig);
}

int main(void)
{
	RUN(check_records_come_back_in_their_order);
	RUN(check_the_oldest_records_go_and_are_counted);
	RUN(check_eight_threads_lose_no_record_of_a_ring_that_is_large_enough);
	RUN(check_no_record_is_ever_half_another);
	RUN(check_a_write_is_seen_from_its_copy_to_its_commit);
	RUN(check_a_write_is_recorded_before_it_can_be_written_back);
	RUN(check_a_write_back_is_recorded_before_its_bytes_can_be_written_again);
	RUN(check_an_answer_is_recorded_before_it_can_be_committed);
	RUN(check_a_commit_is_recorded_before_anything_can_be_acknowledged_after_it);
	check_fails_without("wrote_before_unlock", check_a_write_is_recorded_before_it_can_be_written_back);
	check_fails_without("issued_under_leaf_lock",
			    check_a_write_back_is_recorded_before_its_bytes_can_be_written_again);
	check_fails_without("acked_before_token", check_an_answer_is_recorded_before_it_can_be_committed);
	check_fails_without("commit_recorded_under_token",
			    check_a_commit_is_recorded_before_anything_can_be_acknowledged_after_it);
	return 0;
}
