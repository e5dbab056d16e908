/*
 * Staged bytes beside eviction, the end of a commit, truncate, fills, writers and the queries of an fsync, in both
 * orders (contract 1.1 M5, 2.15, 2.23; T-18a).
 */
#include "staging.h"

/* A read of staged bytes was called before the commit and answers after it, or is called after it. */
static void check_a_fill_beside_the_end_of_a_commit(void)
{
	struct pc_part parts[PARTS];
	struct pc_request *r;
	struct pc_need need;
	size_t n;
	u64 pos;
	for (int late = 0; late < 2; late++) {
		start(0);
		stage(0, 2 * PAGE, 1);
		evict_all();
		EQUAL(pc_fill_begin(file->inode, 0, 2 * PAGE, &need, &r), 0);
		EQUAL(pc_call_next(r, &pos, parts, PARTS, &n), 1);
		CHECK(r->staged);
		int64_t got = late ? 0 : store_read_staged(&file->store, pos, parts, n);
		CHECK(begin_commit(file));
		EQUAL(store_commit(&file->store), 0);
		if (late)
			EQUAL(store_read_staged(&file->store, pos, parts, n), (u64)-ENOENT);
		pc_commit_end(file->inode, true, false);
		if (!late)
			EQUAL(pc_fill_answer(r, got), 0);
		else
			CHECK(!is_staged(file, pos)); /* so it is requested again, elsewhere */
		EQUAL(run_fill(file, r), 0);
		see(0, 2 * PAGE, 1);
		rig_close(&rig);
	}
}

static void *evict_in_thread(void *arg)
{
	(void)arg;
	return (void *)(uintptr_t)pc_reclaim(rig.cache, 1);
}

static void arrive(const char *point, pthread_t *t, void *(*run)(void *))
{
	pc_sync_arm(point, 0);
	pthread_create(t, NULL, run, NULL);
	while (!pc_sync_arrived(point))
		usleep(200);
}

/* Eviction has locked its victim; then the commit ends, or it ended before. */
static void check_eviction_beside_the_end_of_a_commit(void)
{
	for (int order = 0; order < 2; order++) {
		pthread_t t;
		void *freed;
		start_with(0, PAGE, 1, limits_wide());
		stage(0, PAGE, 1);
		CHECK(begin_commit(file));
		EQUAL(store_commit(&file->store), 0);
		if (order)
			pc_commit_end(file->inode, true, false);
		arrive("evict_locked", &t, evict_in_thread);
		if (!order)
			pc_commit_end(file->inode, true, false);
		pc_sync_release("evict_locked");
		pthread_join(t, &freed);
		EQUAL((uintptr_t)freed, 1);
		SOUND(&rig);
		see(0, PAGE, 1);
		rig_close(&rig);
	}
}

static void *truncate_in_thread(void *arg)
{
	(void)arg;
	file_truncate(file, 100);
	return NULL;
}

/* Eviction has locked its victim when a truncate begins, which waits for it; or comes when all is over. */
static void check_eviction_beside_truncate(void)
{
	for (int order = 0; order < 2; order++) {
		pthread_t t, other;
		start_with(0, PAGE, 1, limits_wide());
		stage(0, PAGE, 1);
		if (order) {
			file_truncate(file, 100);
			evict_in_thread(NULL);
		} else {
			arrive("evict_locked", &t, evict_in_thread);
			pthread_create(&other, NULL, truncate_in_thread, NULL);
			usleep(2000);
			pc_sync_release("evict_locked");
			pthread_join(t, NULL);
			pthread_join(other, NULL);
		}
		EQUAL(staged(), 100);
		SOUND(&rig);
		see(0, 100, 1);
		file_truncate(file, PAGE);
		see(100, PAGE - 100, 0);
		rig_close(&rig);
	}
}

/* A fill of staged bytes runs when a truncate or an eviction comes: the truncate waits for it, the eviction does not
 * touch it. */
static void check_a_fill_beside_truncate_and_eviction(void)
{
	struct pc_part parts[PARTS];
	struct pc_request *r;
	struct pc_need need;
	size_t n;
	u64 pos;
	start(0);
	stage(0, 4 * PAGE, 1);
	evict_all();
	EQUAL(pc_fill_begin(file->inode, 0, 4 * PAGE, &need, &r), 0);
	EQUAL(pc_call_next(r, &pos, parts, PARTS, &n), 1);
	EQUAL(pc_reclaim(rig.cache, 1), 0);
	EQUAL(pc_range_busy(file->inode, 100, ALL, &need), 1);
	EQUAL(pc_fill_answer(r, store_read_staged(&file->store, pos, parts, n)), 0);
	pc_request_settle(r);
	EQUAL(pc_range_busy(file->inode, 100, ALL, &need), 0);
	file_truncate(file, 100);
	see(0, 100, 1);
	EQUAL(staged(), 100);
	rig_close(&rig);
}

static void *query_done(void *arg)
{
	(void)arg;
	return (void *)(uintptr_t)pc_sync_done(file->inode, PC_STAMP_NONE - 1);
}

/* The answer of `stage` comes between the two queries of an fsync, or before both: never "done" before the commit. */
static void check_a_stage_that_is_answered_between_two_questions(void)
{
	struct pc_part parts[PARTS];
	struct pc_request *r;
	size_t n;
	u64 pos;
	for (int order = 0; order < 2; order++) {
		pthread_t t;
		void *done;
		start(0);
		put(0, PAGE, 1);
		pc_flush_start(file->inode, ALL, 0, ALL);
		EQUAL(pc_write_next(file->inode, &r), 1);
		CHECK(r->stage);
		EQUAL(pc_call_next(r, &pos, parts, PARTS, &n), 1);
		EQUAL(pc_write_answer(r, store_take(&file->store, pos, parts, n, true)), 1);
		if (order)
			pc_write_done(r, true, false);
		arrive("sync_between", &t, query_done);
		if (!order)
			pc_write_done(r, true, false);
		pc_sync_release("sync_between");
		pthread_join(t, &done);
		CHECK(!done);
		EQUAL(file_sync(file), 0);
		CHECK(query_done(NULL));
		rig_close(&rig);
	}
}

/* A short answer: the taken bytes are staged to the byte, whole blocks leave the folio's sets, the rest is sent
 * again. */
static void check_a_short_answer_of_stage(void)
{
	struct pc_part parts[PARTS];
	struct pc_request *r;
	size_t n;
	u64 pos;
	start(0);
	put(0, 4 * PAGE, 1);
	pc_flush_start(file->inode, ALL, 0, ALL);
	EQUAL(pc_write_next(file->inode, &r), 1);
	file->store.write_max = PAGE + 100;
	EQUAL(pc_call_next(r, &pos, parts, PARTS, &n), 1);
	EQUAL(pc_write_answer(r, store_take(&file->store, pos, parts, n, true)), 0);
	pc_write_done(r, false, false);
	EQUAL(staged(), PAGE + 100);
	EQUAL(usage(file, NULL).dirty, 3 * PAGE);
	SOUND(&rig);
	file->store.write_max = 0;
	pc_retry(file->inode, 0, ALL, true);
	EQUAL(flush(file), 0);
	EQUAL(staged(), 4 * PAGE);
	rig_close(&rig);
}

int main(void)
{
	RUN(check_a_fill_beside_the_end_of_a_commit);
	RUN(check_eviction_beside_the_end_of_a_commit);
	RUN(check_eviction_beside_truncate);
	RUN(check_a_fill_beside_truncate_and_eviction);
	RUN(check_a_stage_that_is_answered_between_two_questions);
	RUN(check_a_short_answer_of_stage);
	return 0;
}
