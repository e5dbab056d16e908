/* Commits: their scope, those that fail, the queries of an fsync beside them, aborts and late answers in a random walk, and
 * bytes read after a discard of acknowledged ones, which do not outlast the commit (T-18, T-18a, T-75b). */
#include "staging.h"

static void begin(void)
{
	open_one(1 << 20, PAGE, 2 * PAGE, ROOM, limits_wide());
}

static void commit_fails(void)
{
	memcpy(file->store.bytes, file->store.stable, ROOM);
	COUNT(file->inode, failed_commits);
	pc_commit_end(file->inode, false, PC_COMMIT_AGAIN);
}

TEST(check_a_running_commit_of_later_bytes_is_not_waited_for)
{
	begin();
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

THREAD_OF(query_done, pc_sync_done(file->inode, *(u64 *)arg))

/* A commit fails, or a write is answered: the bytes go from one set to another that was looked at, or not yet. */
TEST(check_an_answer_between_two_questions_is_noticed)
{
	for (int write = 0; write <= 1; write++) {
		begin();
		put(0, PAGE, 1);
		u64 stamp = pc_epoch_take(rig.volume);
		struct pc_request *r = hand_over();
		CHECK(write || (run_write(file, r) && begin_commit(file)));
		pthread_t t = held_at("sync_between", query_done, &stamp);
		if (write)
			run_write(file, r);
		else
			pc_commit_end(file->inode, false, false);
		CHECK(!let_go("sync_between", t));
	}
}

THREAD_OF(poll_sync, pc_sync_poll(file->inode, arg))

/* Bytes that its commit made dirty are a failure of the commit: nothing of them is sent before it is judged. Also if it fails
 * between the looks for dirty and for unstable bytes: nothing asks for a commit then, and it is not done. [2.15] */
TEST(check_a_sync_tells_its_failed_commit_before_it_sends)
{
	for (int between = 0; between <= 1; between++) {
		begin();
		put(0, PAGE, 1);
		struct pc_sync s = {.stamp = pc_epoch_take(rig.volume), .end = ALL, .flush = 1, .commit = 1};
		EQUAL(flush(file), 0);
		EQUAL(pc_sync_poll(file->inode, &s), PC_SYNC_COMMIT);
		pc_sync_start(file->inode, &s, PC_SYNC_COMMIT);
		CHECK(begin_commit(file));
		EQUAL(pc_sync_poll(file->inode, &s), PC_SYNC_COMMIT); /* and it runs */
		pthread_t t = between ? held_at("sync_flushed", poll_sync, &s) : 0;
		commit_fails();
		u32 next = between ? (u32)(uintptr_t)let_go("sync_flushed", t) : pc_sync_poll(file->inode, &s);
		EQUAL(next, PC_SYNC_COMMIT_FAILED);
		EQUAL(pc_sync_poll(file->inode, &s), PC_SYNC_SEND);
	}
}

enum { BLOCKS = 3 };

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
	CHECK(!committing || !atomic_load(&rig.volume->aborted));
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
			memcpy(s->bytes, s->stable, BLOCKS * PAGE);
			s->size = s->stable_size;
			if (lowest < BLOCKS * PAGE)
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
	pc_volume_abort(rig.volume, false);
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
	memcpy(s->stable, s->bytes, BLOCKS * PAGE);
	s->stable_size = s->size;
}

TEST(check_a_random_walk_never_gets_a_false_yes)
{
	for (u32 walk = 0; walk < 1500; walk++) {
		seed(walk);
		open_one(1 << 20, walk % 2 ? PAGE : 4 * PAGE, 0, BLOCKS * PAGE,
			 LIMITS(.durable_writes = walk % 7 == 0));
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

TEST(check_credits_of_an_older_era_count_for_nothing)
{
	begin();
	u32 old = pc_credit_try(rig.volume);
	CHECK(old && pc_credit_try(rig.volume) == old);
	EQUAL(pc_volume_inflight(rig.volume), 2);
	pc_volume_abort(rig.volume, false);
	pc_volume_resume(rig.volume);
	EQUAL(pc_volume_inflight(rig.volume), 0);
	u32 fresh = pc_credit_try(rig.volume);
	CHECK(fresh && fresh != old);
	pc_credit_put(rig.volume, old);
	EQUAL(pc_volume_inflight(rig.volume), 1);
	pc_credit_put(rig.volume, fresh);
	EQUAL(pc_volume_inflight(rig.volume), 0);
}

/* A commit fails after a sync has seen that nothing is dirty, and before it asks for its own; or a requested commit waits for
 * the token while a rollback sends the bytes back. */
TEST_OF_FIX("commit_follows_its_bytes", check_bytes_that_came_back_before_a_commit_begins_go_first)
{
	for (int asked = 0; asked <= 1; asked++) {
		begin();
		pc_inode_set_uncommitted(file->inode, true, UINT64_MAX, 0, 0); /* a creation, which no byte carries */
		put(0, PAGE, 2);
		u64 stamp = pc_epoch_take(rig.volume);
		EQUAL(flush(file), 0);
		if (asked) {
			take_token(file);
			pc_commit_start(file->inode, stamp);
			pc_uncommit(file->inode);
			pc_token_release(file->inode);
		} else {
			CHECK(begin_commit(file));
			EQUAL(pc_flush_pending(file->inode, stamp, 0, ALL, NULL), 0);
			commit_fails();
			CHECK(pc_commit_needed(file->inode, stamp)); /* the creation */
			pc_commit_start(file->inode, stamp);
		}
		CHECK(!commit_begins(file));
		EQUAL(file->inode->token, PC_TOKEN_FREE);
		u32 writes = file->store.writes;
		EQUAL(file_sync(file), 0);
		EQUAL(file->store.writes, writes + 1);
		EQUAL(file->store.commits, 1); /* one, and it had the bytes */
		EQUAL(file->store.stable[0], 2);
	}
}

/* A change comes while the commit waits for the token. If nobody waits for it, a whole object is left to its writer. */
TEST(check_a_commit_that_nobody_asks_for_publishes_no_later_change)
{
	for (int row = 0; row < 4; row++) {
		bool whole = row & 1, asked = row & 2;
		begin();
		send_bytes(0, PAGE, 2);
		u64 stamp = pc_epoch_take(rig.volume);
		file->inode->limits.commit_on_close = whole;
		take_token(file);
		pc_commit_try(file->inode, stamp);
		if (asked)
			pc_commit_start(file->inode, stamp);
		pc_commit_try(file->inode, stamp);
		put(PAGE, PAGE, 3);
		pc_token_release(file->inode);
		EQUAL(commit_begins(file), asked || !whole);
		if (asked || !whole)
			pc_commit_end(file->inode, true, PC_COMMIT_AGAIN);
		EQUAL(file_sync(file), 0);
	}
}

/* A flag that a rebase within a commit left behind: its work is done, and half of the bytes may be acknowledged. */
TEST_OF_FIX("settling_commits_nothing", check_work_under_the_token_commits_nothing_of_itself)
{
	begin();
	pc_settle_start(file->inode); /* there is nothing to commit */
	CHECK(commit_begins(file));
	CHECK(!NUMBER(file->inode, COMMIT_DUE));
	EQUAL(file->inode->counters.commits, 0);
	pc_commit_end(file->inode, false, PC_COMMIT_KEPT);
	send_bytes(0, PAGE, 2);
	CHECK(begin_commit(file));
	CHECK(NUMBER(file->inode, COMMIT_DUE));
	pc_settle_start(file->inode); /* while it runs: not lost */
	pc_commit_end(file->inode, false, PC_COMMIT_KEPT);
	u64 commits = file->inode->counters.commits;
	CHECK(commit_begins(file));
	CHECK(!NUMBER(file->inode, COMMIT_DUE));
	EQUAL(file->inode->counters.commits, commits);
	pc_commit_end(file->inode, false, PC_COMMIT_KEPT);
	pc_settle_start(file->inode);
	pc_commit_start(file->inode, 0); /* a caller does want one */
	CHECK(commit_begins(file));
	CHECK(NUMBER(file->inode, COMMIT_DUE));
	pc_commit_end(file->inode, false, PC_COMMIT_KEPT);
	EQUAL(usage(file, NULL).unstable, PAGE);
}

TEST_OF_FIX("discarded_bytes_are_not_kept", check_bytes_read_after_a_discard_go_with_a_failed_commit)
{
	begin();
	put(0, 2 * PAGE, 1);
	EQUAL(file_sync(file), 0);
	send_bytes(0, PAGE, 2);
	EQUAL(file_discard(file, 0, PAGE, NULL, 0), 1);
	EQUAL(byte_at(0), 2);
	CHECK(begin_commit(file));
	u32 reads = file->store.reads;
	pc_commit_end(file->inode, false, PC_COMMIT_KEPT); /* it has forgotten nothing */
	EQUAL(byte_at(0), 2);
	EQUAL(file->store.reads, reads);
	for (int again = 0; again < 2; again++) { /* it is unknown which bytes the first one has forgotten */
		file->store.bytes[0] = 2;
		pc_invalidate_range(file->inode, 0, PAGE);
		EQUAL(byte_at(0), 2);
		CHECK(begin_commit(file));
		commit_fails();
		EQUAL(byte_at(0), 1);
	}
	reads = file->store.reads;
	EQUAL(file_sync(file), 0);
	EQUAL(byte_at(0), 1);
	EQUAL(file->store.reads, reads + 1);
	CHECK(!NUMBER(file->inode, UNSAVED));
}

/* A backend that cannot roll back publishes its staged bytes; reads show that only when it is in the object. */
TEST_OF_FIX("discarded_bytes_are_not_kept", check_bytes_read_after_a_discard_go_with_the_commit_that_publishes)
{
	start(2 * PAGE);
	u8 old = byte_at(0);
	send_bytes(0, PAGE, 2);
	EQUAL(file_discard(file, 0, PAGE, NULL, 0), 1);
	EQUAL(staged(), 0);
	EQUAL(byte_at(0), old);
	EQUAL(file_sync(file), 0);
	EQUAL(file->store.bytes[0], 2);
	EQUAL(byte_at(0), 2);
}
