/* Staged bytes beside eviction, the end of a commit, truncate, fills, writers and the queries of an fsync, in both orders
 * (contract 1.1 M5, 2.15, 2.23; T-18a). */
#include "staging.h"

/* A read of staged bytes was called before the commit and answers after it, or is called after it. */
TEST(check_a_fill_beside_the_end_of_a_commit)
{
	for (int late = 0; late < 2; late++) {
		start(0);
		send_bytes(0, 2 * PAGE, 1);
		evict_all();
		struct pc_request *r = begin_fill(file, 0, 2 * PAGE);
		struct call c = next_call(r);
		CHECK(r->staged);
		int64_t got = late ? 0 : store_read_staged(&file->store, c.pos, c.parts, c.n);
		CHECK(begin_commit(file));
		EQUAL(store_commit(&file->store), 0);
		if (late)
			EQUAL(store_read_staged(&file->store, c.pos, c.parts, c.n), (u64)-ENOENT);
		pc_commit_end(file->inode, true, false);
		if (!late)
			EQUAL(pc_fill_answer(r, got), 0);
		else
			CHECK(!is_staged(file, c.pos)); /* so it is requested again, elsewhere */
		EQUAL(run_fill(file, r), 0);
		see(0, 2 * PAGE, 1);
	}
}

THREAD_OF(evict_in_thread, pc_reclaim(rig.cache, 1))

/* Eviction has locked its victim; then the commit ends, or it ended before. */
TEST(check_eviction_beside_the_end_of_a_commit)
{
	for (int order = 0; order < 2; order++) {
		start_with(0, PAGE, 1, limits_wide());
		send_bytes(0, PAGE, 1);
		CHECK(begin_commit(file));
		EQUAL(store_commit(&file->store), 0);
		if (order)
			pc_commit_end(file->inode, true, false);
		pthread_t t = held_at("evict_locked", evict_in_thread, NULL);
		if (!order)
			pc_commit_end(file->inode, true, false);
		EQUAL((uintptr_t)let_go("evict_locked", t), 1);
		SOUND(&rig);
		see(0, PAGE, 1);
	}
}

THREAD(truncate_in_thread, file_truncate(file, 100))

/* Eviction has locked its victim when a truncate begins, which waits for it; or comes when all is over. */
TEST(check_eviction_beside_truncate)
{
	for (int order = 0; order < 2; order++) {
		start_with(0, PAGE, 1, limits_wide());
		send_bytes(0, PAGE, 1);
		if (order) {
			file_truncate(file, 100);
			evict_in_thread(NULL);
		} else {
			pthread_t other, t = held_at("evict_locked", evict_in_thread, NULL);
			pthread_create(&other, NULL, truncate_in_thread, NULL);
			usleep(2000);
			let_go("evict_locked", t);
			pthread_join(other, NULL);
		}
		EQUAL(staged(), 100);
		SOUND(&rig);
		see(0, 100, 1);
		file_truncate(file, PAGE);
		see(100, PAGE - 100, 0);
	}
}

THREAD_OF(query_done, pc_sync_done(file->inode, PC_STAMP_NONE - 1))

/* The answer of `stage` comes between the two queries of an fsync, or before both: never "done" before the commit. */
TEST(check_a_stage_that_is_answered_between_two_questions)
{
	for (int order = 0; order < 2; order++) {
		start(0);
		put(0, PAGE, 1);
		struct pc_request *r = hand_over();
		CHECK(r->stage);
		EQUAL(send_call(file, r), 1);
		if (order)
			pc_write_done(r, true, false);
		pthread_t t = held_at("sync_between", query_done, NULL);
		if (!order)
			pc_write_done(r, true, false);
		CHECK(!let_go("sync_between", t));
		EQUAL(file_sync(file), 0);
		CHECK(query_done(NULL));
	}
}

/* The taken bytes are staged to the byte, whole blocks leave the folio's sets, the rest is sent again. */
TEST(check_a_short_answer_of_stage)
{
	start(0);
	put(0, 4 * PAGE, 1);
	struct pc_request *r = hand_over();
	file->store.write_max = PAGE + 100;
	EQUAL(send_call(file, r), 0);
	pc_write_done(r, false, false);
	EQUAL(staged(), PAGE + 100);
	EQUAL(usage(file, NULL).dirty, 3 * PAGE);
	SOUND(&rig);
	file->store.write_max = 0;
	pc_retry(file->inode, 0, ALL, true);
	EQUAL(flush(file), 0);
	EQUAL(staged(), 4 * PAGE);
}
