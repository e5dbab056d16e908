/*
 * When a byte is safe: commits that succeed, fail, keep; stamps; and a random walk of two blocks in which every success
 * of an fsync is checked against the store's committed content (T-18, T-18a, T-75b).
 */
#include "rig.h"

enum { BLOCKS = 3, ROOM = BLOCKS * PAGE };

static void start(u64 max_folio, bool durable)
{
	open_one(1 << 20, max_folio, 0, ROOM, LIMITS(.durable_writes = durable));
}

/* A block is acknowledged, and a commit of it has begun. Return: the epoch that waits for it. */
static u64 commit_a_block(void)
{
	start(PAGE, false);
	put(0, PAGE, 1);
	u64 stamp = pc_epoch_take(rig.volume);
	EQUAL(flush(file), 0);
	CHECK(begin_commit(file));
	return stamp;
}

TEST(check_a_running_commit_of_later_bytes_is_not_waited_for)
{
	start(PAGE, false);
	put(0, PAGE, 1);
	u64 s = pc_epoch_take(rig.volume);
	EQUAL(file_sync(file), 0);
	send_bytes(PAGE, PAGE, 2);
	CHECK(begin_commit(file));
	CHECK(pc_sync_done(file->inode, s));
	CHECK(!pc_sync_done(file->inode, ALL));
	pc_commit_end(file->inode, false, PC_COMMIT_AGAIN);
	CHECK(pc_sync_done(file->inode, s));
}

TEST(check_changes_without_a_folio_wait_for_a_commit_too)
{
	start(PAGE, false);
	pc_inode_set_uncommitted(file->inode, true, UINT64_MAX, 0, 0); /* created */
	CHECK(NUMBER(file->inode, UNSAVED));
	EQUAL(pc_volume_dirty_inodes(rig.volume, NULL, 0), 1);
	CHECK(pc_commit_needed(file->inode, 1));
	CHECK(!pc_commit_needed(file->inode, 0));
	CHECK(begin_commit(file));
	CHECK(!pc_sync_done(file->inode, 1)); /* moved into the commit, not gone */
	pc_commit_end(file->inode, false, false);
	CHECK(pc_commit_needed(file->inode, 1));
	EQUAL(file_sync(file), 0);
	CHECK(!NUMBER(file->inode, UNSAVED));
	EQUAL(pc_volume_dirty_inodes(rig.volume, NULL, 0), 0);
	put(0, PAGE, 1);
	u64 s = pc_epoch_take(rig.volume);
	file_truncate(file, 0); /* the stamp of the bytes it removed is the truncate's */
	CHECK(!pc_sync_done(file->inode, s));
	EQUAL(usage(file, NULL).local, 0);
	EQUAL(file_sync(file), 0);
	EQUAL(file->store.stable_size, 0);
}

TEST(check_nothing_to_commit_gives_the_token_back)
{
	start(PAGE, false);
	CHECK(!begin_commit(file));
	EQUAL(file->inode->token, PC_TOKEN_FREE);
	put(0, PAGE, 1);
	pc_flush_start(file->inode, ALL, 0, ALL);
	pc_commit_start(file->inode, 0); /* in line behind the pass */
	pc_commit_start(file->inode, 0);
	work_all(rig.volume);
	EQUAL(file->store.commits, 1);
	EQUAL(file->store.stable[0], 1);
}

THREAD_OF(query_done, pc_sync_done(file->inode, *(u64 *)arg))

TEST(check_a_commit_that_fails_between_two_questions_is_noticed)
{
	u64 stamp = commit_a_block();
	pthread_t t = held_at("sync_between", query_done, &stamp);
	pc_commit_end(file->inode, false, false);
	CHECK(!let_go("sync_between", t));
}

THREAD_OF(poll_sync, pc_sync_poll(file->inode, arg))

static void fail_commit(void)
{
	COUNT(file->inode, failed_commits);
	pc_commit_end(file->inode, false, PC_COMMIT_AGAIN);
}

static struct pc_sync waiting_for_commit(void)
{
	start(PAGE, false);
	put(0, PAGE, 1);
	struct pc_sync s = {.stamp = pc_epoch_take(rig.volume), .end = ALL, .flush = 1, .commit = 1};
	EQUAL(flush(file), 0);
	EQUAL(pc_sync_poll(file->inode, &s), PC_SYNC_COMMIT);
	pc_sync_start(file->inode, &s, PC_SYNC_COMMIT);
	CHECK(begin_commit(file));
	return s;
}

/* Bytes that its commit made dirty are a failure of the commit: nothing of them is sent before it is judged. [2.15] */
TEST(check_a_sync_tells_its_failed_commit_before_it_sends)
{
	struct pc_sync s = waiting_for_commit();
	EQUAL(pc_sync_poll(file->inode, &s), PC_SYNC_COMMIT); /* and it runs */
	fail_commit();
	EQUAL(pc_sync_poll(file->inode, &s), PC_SYNC_COMMIT_FAILED);
	EQUAL(pc_sync_poll(file->inode, &s), PC_SYNC_SEND);
}

/* The same, between the looks for dirty and for unstable bytes: nothing asks for a commit then, and it is not done. */
TEST(check_a_sync_tells_a_commit_that_fails_between_its_looks)
{
	struct pc_sync s = waiting_for_commit();
	pthread_t t = held_at("sync_flushed", poll_sync, &s);
	fail_commit();
	EQUAL((uintptr_t)let_go("sync_flushed", t), PC_SYNC_COMMIT_FAILED);
}

/* It waits for no commit, so that of another one tells it nothing; but bytes are dirty again. */
TEST(check_a_sync_is_not_done_after_the_failed_commit_of_another)
{
	struct pc_sync s = {.stamp = commit_a_block(), .end = ALL, .flush = 1, .commit = 1};
	pthread_t t = held_at("sync_flushed", poll_sync, &s);
	fail_commit();
	EQUAL((uintptr_t)let_go("sync_flushed", t), PC_SYNC_WAIT);
	EQUAL(pc_sync_poll(file->inode, &s), PC_SYNC_SEND);
}

struct claim { /* one fsync: the content it has to find committed when it succeeds */
	bool live, cut;
	u64 stamp;
	u32 version[BLOCKS];
};

static u32 version[BLOCKS], cut_at[BLOCKS], clock_now;
static struct claim claims[2];

static void judge(const struct claim *c)
{
	for (u32 b = 0; b < BLOCKS; b++) {
		if (!c->version[b])
			continue;
		u32 stable = (u64)b * PAGE < file->store.stable_size ? *(u32 *)(file->store.stable + b * PAGE) : 0;
		bool by_cut = stable == 0 && cut_at[b] >= c->version[b];
		if (stable < c->version[b] && !by_cut)
			check_failed(__FILE__, __LINE__, "fsync said yes: block's version wanted, committed",
				     c->version[b], stable);
	}
}

static struct pc_request *flying[8];
static u32 nr_flying;
static bool committing;
static u64 lowest; /* size since the last commit: owed again after a reconnect */

static void answer_one(void)
{
	if (!nr_flying)
		return;
	u32 k = (u32)draw(nr_flying);
	struct pc_request *r = flying[k];
	int done = 0;
	file->store.write_max = draw(2) ? 0 : PAGE;
	switch (draw(4)) {
	case 0: break; /* nothing arrived */
	case 1: /* arrived, or part of it, and then an error */
		done = send_call(file, r) == 1;
		done = done && draw(2);
		break;
	default:
		while (!done)
			done = send_call(file, r);
	}
	pc_write_done(r, done, draw(8) == 0);
	flying[k] = flying[--nr_flying];
}

static void commit_step(void)
{
	struct pc_work w;
	if (committing) {
		bool ok = draw(3) && !atomic_load(&rig.volume->aborted);
		if (ok) {
			EQUAL(store_commit(&file->store), 0);
			lowest = ALL;
		} else if (file->store.kept) /* forgets unstaged bytes */
			store_forget(&file->store);
		else if (draw(2)) /* a failed commit may have committed anything */
			store_commit(&file->store);
		pc_commit_end(file->inode, ok, !ok && !file->store.kept && draw(3) == 0);
		committing = false;
		return;
	}
	pc_commit_start(file->inode, 0);
	pc_work_next(rig.volume, &w);
	if (w.kind == PC_WORK_COMMITTING)
		committing = pc_commit_begin(file->inode, false);
	if (w.kind == PC_WORK_PASS) {
		pc_credit_put(rig.volume, w.credit);
		if (atomic_load(&rig.volume->aborted))
			pass_is_over(); /* it got the token after the abort: ends */
		else
			pc_pass_again(file->inode);
	}
	if (w.kind != PC_WORK_NONE)
		end_work(&w);
}

static void write_step(void)
{
	u32 bytes[PAGE / 4] = {0}, b = (u32)draw(BLOCKS);
	bytes[0] = ++clock_now;
	EQUAL(file_write(file, (u64)b * PAGE, bytes, draw(2) ? PAGE : 4), 0);
	version[b] = clock_now;
}

static void truncate_step(void)
{
	if (file->inode->token != PC_TOKEN_FREE || nr_flying)
		return;
	u32 b = (u32)draw(BLOCKS + 1);
	clock_now++;
	file_truncate(file, (u64)b * PAGE);
	if (!file->inode->limits.durable_writes)
		lowest = pc_min(lowest, (u64)b * PAGE);
	for (; b < BLOCKS; b++)
		version[b] = cut_at[b] = clock_now;
}

static void fsync_step(void)
{
	struct claim *c = &claims[draw(2)];
	if (!c->live) {
		c->live = true;
		memcpy(c->version, version, sizeof(version));
		c->stamp = pc_epoch_take(rig.volume);
	}
	if (pc_sync_done(file->inode, c->stamp)) {
		judge(c);
		c->live = false;
	}
}

static void abort_step(void)
{
	if (atomic_load(&rig.volume->aborted)) {
		/* Reconnected: no byte that was only acknowledged may count. The token waits for old calls. */
		if (nr_flying || committing || file->inode->token != PC_TOKEN_FREE)
			return;
		struct store *s = &file->store;
		pc_volume_resume(rig.volume);
		if (s->kept) { /* the spool, from which staged bytes are sent again */
			store_forget(s);
		} else { /* it has lost all bytes that were only acknowledged, and truncates */
			memcpy(s->bytes, s->stable, ROOM);
			s->size = s->stable_size;
			if (lowest < ROOM)
				store_truncate(s, lowest);
			store_truncate(s, pc_inode_remote_size(file->inode));
		}
		pc_inode_set_uncommitted(file->inode, true, UINT64_MAX, 0, 0);
		CHECK(begin_commit(file));
		pc_commit_end(file->inode, false, false);
		return;
	}
	if (draw(4))
		return;
	pc_volume_abort(rig.volume);
	pc_inode_aborted(file->inode);
}

static void step(void)
{
	switch (draw(13)) {
	case 0:
	case 1:
	case 2: write_step(); break;
	case 3: pc_flush_start(file->inode, ALL, 0, ALL); break;
	case 4: pc_flush_start(file->inode, ALL, draw(BLOCKS) * PAGE, (1 + draw(BLOCKS)) * PAGE); break;
	case 5:
		if (nr_flying < 8 && (flying[nr_flying] = next_write()))
			nr_flying++;
		break;
	case 6: answer_one(); break;
	case 7: commit_step(); break;
	case 8:
		if (!atomic_load(&rig.volume->aborted))
			truncate_step();
		break;
	case 9: pc_retry(file->inode, 0, ALL, draw(2)); break;
	case 10: abort_step(); break;
	case 11: pc_drop_clean(file->inode, 0, ALL); break;
	default: fsync_step(); break;
	}
}

static void acknowledged_is_stable(void)
{
	struct store *s = &file->store;
	if (!file->inode->limits.durable_writes)
		return;
	memcpy(s->stable, s->bytes, ROOM);
	s->stable_size = s->size;
}

TEST(check_a_random_walk_never_gets_a_false_yes)
{
	for (u32 walk = 0; walk < 1500; walk++) {
		seed(walk);
		start(walk % 2 ? PAGE : 4 * PAGE, walk % 7 == 0);
		struct pc_limits l = file->inode->limits;
		l.max_write = draw(2) ? PAGE : 1 << 20;
		l.stages = walk % 3 == 0 && !l.durable_writes;
		if (l.stages) {
			store_stages(&file->store);
			pc_cache_configure(rig.cache, PAGE, (1 + draw(4)) * PAGE, 4 * PAGE, true);
		}
		pc_inode_set_limits(file->inode, &l);
		memset(version, 0, sizeof(version));
		memset(cut_at, 0, sizeof(cut_at));
		memset(claims, 0, sizeof(claims));
		clock_now = nr_flying = 0;
		lowest = ALL;
		committing = false;
		for (int k = 0; k < 120; k++) {
			step();
			acknowledged_is_stable();
			if (k % 8 == 0)
				SOUND(&rig);
		}
		while (nr_flying)
			answer_one();
		if (committing)
			commit_step();
		for (; atomic_load(&rig.volume->aborted); abort_step())
			commit_step();
		work_all(rig.volume);
		struct claim last = {.live = true};
		memcpy(last.version, version, sizeof(version));
		file->store.write_max = 0;
		pc_retry(file->inode, 0, ALL, true);
		EQUAL(file_sync(file), 0);
		acknowledged_is_stable();
		judge(&last);
	}
}

TEST(check_a_commit_that_an_abort_overtook_is_a_failure_whatever_it_says)
{
	struct pc_undone_report undone;
	for (int resumed = 0; resumed < 2; resumed++) {
		start(PAGE, false);
		send_bytes(0, PAGE, 1);
		pc_inode_set_uncommitted(file->inode, true, 7, 0, 0);
		CHECK(begin_commit(file));
		pc_volume_abort(rig.volume);
		CHECK(NUMBER(file->inode, OLD_HANDS));
		if (resumed)
			pc_volume_resume(rig.volume);
		CHECK(NUMBER(file->inode, OLD_HANDS));
		pc_commit_end(file->inode, true, PC_COMMIT_AGAIN);
		CHECK(!NUMBER(file->inode, OLD_HANDS));
		EQUAL(usage(file, NULL).dirty, PAGE);
		EQUAL(usage(file, NULL).unstable, 0);
		CHECK(pc_commit_needed(file->inode, PC_STAMP_NONE));
		pc_inode_undone(file->inode, &undone);
		EQUAL(undone.lowest, 7);
		CHECK(undone.created);
		pc_volume_resume(rig.volume);
		EQUAL(file_sync(file), 0);
		pc_inode_undone(file->inode, &undone);
		EQUAL(undone.lowest, ALL);
		CHECK(!undone.created && !undone.resized);
	}
}

TEST(check_no_commit_begins_after_an_abort)
{
	start(PAGE, false);
	send_bytes(0, PAGE, 1);
	pc_commit_start(file->inode, 0);
	pc_volume_abort(rig.volume);
	struct pc_work w;
	for (pc_work_next(rig.volume, &w); w.kind == PC_WORK_PASS; pc_work_next(rig.volume, &w)) {
		pc_credit_put(rig.volume, w.credit);
		pass_is_over(); /* it has the token */
		end_work(&w);
	}
	EQUAL(w.kind, PC_WORK_COMMITTING);
	CHECK(!pc_commit_begin(file->inode, false)); /* and the token is free */
	end_work(&w);
	EQUAL(file->inode->token, PC_TOKEN_FREE);
	pc_volume_resume(rig.volume);
}

/* A backend that kept its bytes gets another try, without them; bytes of one that failed for good are parked. */
TEST(check_a_failed_commit_tells_what_becomes_of_its_bytes)
{
	struct {
		u32 how;
		u64 dirty, failed, unstable;
	} rows[] = {{PC_COMMIT_AGAIN, PAGE, 0, 0}, {PC_COMMIT_KEPT, 0, 0, PAGE}, {PC_COMMIT_PARKED, PAGE, PAGE, 0}};
	for (u32 k = 0; k < 3; k++) {
		commit_a_block();
		u32 writes = file->store.writes;
		pc_commit_end(file->inode, false, rows[k].how);
		struct pc_usage u = usage(file, NULL);
		CHECK(u.dirty == rows[k].dirty && u.failed == rows[k].failed && u.unstable == rows[k].unstable);
		if (u.unstable)
			CHECK(pc_commit_needed(file->inode, 1));
		if (u.failed) {
			EQUAL(pc_flush_start(file->inode, PC_STAMP_NONE - 1, 0, ALL), 0); /* no thread sends it */
			CHECK(pc_retry(file->inode, 0, ALL, true) > 0);
		}
		SAVES({0, 1});
		EQUAL(file->store.writes - writes, rows[k].how != PC_COMMIT_KEPT);
		EQUAL(usage(file, NULL).failed, 0);
	}
}

TEST(check_credits_of_an_older_era_count_for_nothing)
{
	start(PAGE, false);
	u32 old = pc_credit_try(rig.volume);
	CHECK(old && pc_credit_try(rig.volume) == old);
	EQUAL(pc_volume_inflight(rig.volume), 2);
	pc_volume_abort(rig.volume);
	pc_volume_resume(rig.volume);
	EQUAL(pc_volume_inflight(rig.volume), 0);
	u32 fresh = pc_credit_try(rig.volume);
	CHECK(fresh && fresh != old);
	pc_credit_put(rig.volume, old);
	EQUAL(pc_volume_inflight(rig.volume), 1);
	pc_credit_put(rig.volume, fresh);
	EQUAL(pc_volume_inflight(rig.volume), 0);
}
