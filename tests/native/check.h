/*
 * check.h - shared by all C tests: checks that report place and reason, seeded random numbers, a store in memory.
 *
 * A failed check prints the last transitions of the cache that rig_open() made, and aborts. A test sets how the store
 * answers: short, late, with errors. `bytes` is the acknowledged content, `stable` the committed one.
 */
#ifndef CHECK_H
#define CHECK_H

#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/io.h"

/* One of the numbers of an inode, and one more in one of its counters. */
#define NUMBER(inode, which)  pc_inode_number(inode, PC_BY_##which)
#define COUNT(inode, counter) pc_counter_add(inode, offsetof(struct pc_counters, counter) / sizeof(u64), 1)

#define MAYBE       __attribute__((unused))
#define CHECK(x)    ((x) ? (void)0 : check_failed(__FILE__, __LINE__, #x, 0, 0))
#define EQUAL(a, b) check_equal(__FILE__, __LINE__, #a " == " #b, (u64)(a), (u64)(b))

enum { PAGE = 4096, PARTS = 1024 };
#define ALL UINT64_MAX

static MAYBE const char *check_name = "";
static MAYBE struct pc_cache *check_cache;

static MAYBE _Noreturn void check_failed(const char *file, int line, const char *text, u64 a, u64 b)
{
	static char trace[6000];
	fprintf(stderr, "%s:%d: %s: failed: %s (%" PRIu64 ", %" PRIu64 ")\n", file, line, check_name, text, a, b);
	if (check_cache && pc_trace_text(check_cache, trace, sizeof(trace)))
		fprintf(stderr, "%s", trace);
	abort();
}

static MAYBE void check_equal(const char *file, int line, const char *text, u64 a, u64 b)
{
	if (a != b)
		check_failed(file, line, text, a, b);
}

static MAYBE void check_sound(const char *file, int line, struct pc_cache *c)
{
	struct pc_violation v;
	if (pc_check(c, &v)) {
		fprintf(stderr, "%s: %s\n", v.invariant, v.text);
		check_failed(file, line, "pc_check", 0, 0);
	}
}

/* ---------------------------------------------------------------- the tests of a program */

/* TEST(name) { ... } defines a test; main() runs the tests in the order of their definitions. TEST_OF_FIX is a test that fails,
 * or hangs, without a fix: builds with planted bugs check that. */
#define TEST(name) TEST_OF_FIX(NULL, name)
#define TEST_OF_FIX(fix, name)                                                                                         \
	static void name(void);                                                                                        \
	__attribute__((constructor)) static void name##_is_a_test(void)                                                \
	{                                                                                                              \
		check_tests[nr_check_tests++] = (struct test){#name, fix, name};                                       \
	}                                                                                                              \
	static void name(void)

static MAYBE struct test {
	const char *name, *fix;
	void (*run)(void);
} check_tests[64];
static MAYBE u32 nr_check_tests;
static MAYBE void (*check_end)(void); /* closes what a test has opened */

static MAYBE void check_run(void (*test)(void))
{
	test();
	if (check_end)
		check_end();
}

/* Check in a child process that the test fails, or hangs, without this fix. In builds with planted bugs only. */
static MAYBE void check_fails_without(const char *fix, void (*test)(void))
{
#ifdef PC_PLANTED
	pid_t child = fork();
	if (child == 0) {
		signal(SIGALRM, SIG_DFL);
		alarm(1);
		freopen("/dev/null", "w", stderr);
		pc_fix_removed = fix;
		check_run(test);
		_exit(0);
	}
	int status = 0;
	CHECK(waitpid(child, &status, 0) == child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		check_failed(__FILE__, __LINE__, fix, 0, 0);
#else
	(void)fix, (void)test;
#endif
}

/* ---------------------------------------------------------------- random numbers, seeded */

static MAYBE _Thread_local u64 check_seed = 88172645463325252ull;

static MAYBE u64 draw(u64 n)
{
	check_seed ^= check_seed << 13;
	check_seed ^= check_seed >> 7;
	check_seed ^= check_seed << 17;
	return (check_seed >> 11) % n;
}

static MAYBE void seed(u64 n)
{
	check_seed = (n + 1) * 0x9e3779b97f4a7c15ull;
	draw(2);
}

#ifndef PC_SCHEDULED
#ifndef FIRST_SEED
#define FIRST_SEED 0
#endif

/* An argument is the seed. */
int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	seed(argc > 1 ? strtoull(argv[1], NULL, 10) : (u64)FIRST_SEED);
	for (u32 k = 0; k < nr_check_tests; k++) {
		check_name = check_tests[k].name;
		check_run(check_tests[k].run);
		if (check_tests[k].fix)
			check_fails_without(check_tests[k].fix, check_tests[k].run);
	}
	return 0;
}
#endif

/* A function for a thread that does one thing. */
#define THREAD(name, statement)                                                                                        \
	static void *name(void *arg MAYBE)                                                                             \
	{                                                                                                              \
		statement;                                                                                             \
		return NULL;                                                                                           \
	}

/* The same, of a thread that returns a number. */
#define THREAD_OF(name, value)                                                                                         \
	static void *name(void *arg MAYBE)                                                                             \
	{                                                                                                              \
		return (void *)(uintptr_t)(value);                                                                     \
	}

/* Threads that get their number. */
static MAYBE void start_threads(pthread_t *t, u32 n, void *(*run)(void *))
{
	for (uintptr_t k = 0; k < n; k++)
		EQUAL(pthread_create(&t[k], NULL, run, (void *)k), 0);
}

static MAYBE void join_threads(pthread_t *t, u32 n)
{
	for (u32 k = 0; k < n; k++)
		EQUAL(pthread_join(t[k], NULL), 0);
}

/* Start a thread. Return: it, when it has arrived at a sync point, which holds it. */
static MAYBE pthread_t held_at(const char *point, void *(*run)(void *), void *arg)
{
	pthread_t t;
	pc_sync_arm(point, 0);
	EQUAL(pthread_create(&t, NULL, run, arg), 0);
	while (!pc_sync_arrived(point))
		sched_yield();
	return t;
}

/* Let the thread go on from there. Return: its result. */
static MAYBE void *let_go(const char *point, pthread_t t)
{
	void *result;
	pc_sync_release(point);
	pthread_join(t, &result);
	return result;
}

/* ---------------------------------------------------------------- a store */

enum store_moment { STORE_READS, STORE_TAKES, STORE_COMMITS, STORE_ANSWERS };

struct store {
	pthread_mutex_t lock;
	u8 *bytes, *stable;
	u8 *left; /* with store_forgets: the content after a failed commit */
	/* with store_stages: flags of the bytes in the spool; the content that reads of the object return for the others */
	u8 *kept, *old;
	u64 room, size, stable_size;
	u64 read_max, write_max; /* bytes per call, 0: all */
	u64 unit; /* writes are whole units of that many bytes, the end of the file aside; 0: any */
	int write_error, read_error, commit_error; /* negative errno */
	bool parked; /* write_error is permanent */
	u64 write_fails_at; /* with write_error: only calls that reach this byte */
	u32 delay_us; /* a write takes that long, and its buffers must not change in that time */
	/* a call has come, or is about to return: other threads may go on */
	void (*meet)(struct store *, enum store_moment);
	u32 reads, writes, commits, stages, staged_reads;
	u64 read_bytes, write_bytes;
};

static MAYBE u8 first_byte(u64 pos)
{
	return (u8)(pos * 7 + (pos >> 12) * 13 + 1);
}

static MAYBE void store_init(struct store *s, u64 size, u64 room)
{
	memset(s, 0, sizeof(*s));
	pthread_mutex_init(&s->lock, NULL);
	s->room = room > size ? room : size;
	s->bytes = calloc(s->room + 1, 1);
	s->stable = calloc(s->room + 1, 1);
	s->size = s->stable_size = size;
	for (u64 k = 0; k < size; k++)
		s->bytes[k] = s->stable[k] = first_byte(k);
}

/* From here on the store stands for a backend and a spool: it shows written bytes only after a commit, and a failed commit
 * forgets bytes that are not in the spool. */
static MAYBE void store_stages(struct store *s)
{
	s->kept = calloc(s->room + 1, 1);
	s->old = malloc(s->room + 1);
	memcpy(s->old, s->bytes, s->room + 1);
}

/* From here on a commit that fails forgets the bytes acknowledged since the last one, truncates and holes aside. */
static MAYBE void store_forgets(struct store *s)
{
	s->left = malloc(s->room + 1);
	memcpy(s->left, s->bytes, s->room + 1);
}

static void store_meet(struct store *s, enum store_moment when)
{
	if (s->meet)
		s->meet(s, when);
}

static MAYBE void store_free(struct store *s)
{
	free(s->left);
	free(s->bytes);
	free(s->stable);
	free(s->kept);
	free(s->old);
}

static MAYBE int64_t store_read(struct store *s, u64 pos, const struct pc_part *parts, size_t n)
{
	const u8 *source = s->kept ? s->old : s->bytes;
	u64 done = 0;
	store_meet(s, STORE_READS);
	pthread_mutex_lock(&s->lock);
	s->reads++;
	u64 most = pos >= s->size ? 0 : s->size - pos;
	most = s->read_max && s->read_max < most ? s->read_max : most;
	for (size_t k = 0; k < n; k++) {
		u64 part = parts[k].len < most - done ? parts[k].len : most - done;
		memcpy(parts[k].memory, source + pos + done, part);
		done += part;
	}
	s->read_bytes += done;
	int err = s->read_error;
	pthread_mutex_unlock(&s->lock);
	store_meet(s, STORE_ANSWERS);
	return err ? err : (int64_t)done;
}

/* Return: -ENOENT: the first byte is not staged; short: a later one is not staged. */
static MAYBE int64_t store_read_staged(struct store *s, u64 pos, const struct pc_part *parts, size_t n)
{
	u64 done = 0;
	bool more = true;
	store_meet(s, STORE_READS);
	pthread_mutex_lock(&s->lock);
	s->staged_reads++;
	for (size_t k = 0; more && k < n; k++)
		for (u64 b = 0; more && b < parts[k].len; b++) {
			more = s->kept[pos + done] && !(s->read_max && done >= s->read_max);
			if (more)
				parts[k].memory[b] = s->bytes[pos + done++];
		}
	pthread_mutex_unlock(&s->lock);
	store_meet(s, STORE_ANSWERS);
	return done ? (int64_t)done : -ENOENT;
}

static MAYBE u64 sum_of(const struct pc_part *parts, size_t n)
{
	u64 sum = 0;
	for (size_t k = 0; k < n; k++) {
		u64 b = 0, word;
		for (; b + 8 <= parts[k].len; b += 8) {
			memcpy(&word, parts[k].memory + b, 8);
			sum = (sum ^ word) * 0x9e3779b97f4a7c15ull;
		}
		for (; b < parts[k].len; b++)
			sum = sum * 31 + parts[k].memory[b];
	}
	return sum;
}

static int64_t store_took(struct store *s, u64 pos, const struct pc_part *parts, size_t n, bool stage)
{
	u64 done = 0, len = 0;
	for (size_t k = 0; k < n; k++)
		len += parts[k].len;
	CHECK(!s->unit || (pos % s->unit == 0 && ((pos + len) % s->unit == 0 || pos + len >= s->size)));
	if (s->write_error && pos + len > s->write_fails_at)
		return s->write_error;
	u64 most = s->write_max && s->write_max < len ? s->write_max : len;
	CHECK(pos + most <= s->room);
	for (size_t k = 0; k < n; k++) {
		u64 part = parts[k].len < most - done ? parts[k].len : most - done;
		memcpy(s->bytes + pos + done, parts[k].memory, part);
		done += part;
	}
	if (s->kept)
		memset(s->kept + pos, stage, done);
	if (pos + done > s->size)
		s->size = pos + done;
	s->write_bytes += done;
	return (int64_t)done;
}

/* @stage: keep the taken bytes readable. A slow call checks that its buffers hold still. */
static MAYBE int64_t store_take(struct store *s, u64 pos, const struct pc_part *parts, size_t n, bool stage)
{
	bool looks = s->delay_us || s->meet;
	u64 sum = looks ? sum_of(parts, n) : 0;
	if (s->delay_us)
		usleep(s->delay_us);
	store_meet(s, STORE_TAKES);
	pthread_mutex_lock(&s->lock);
	s->writes++;
	s->stages += stage;
	int64_t took = store_took(s, pos, parts, n, stage);
	pthread_mutex_unlock(&s->lock);
	store_meet(s, STORE_ANSWERS);
	if (looks)
		EQUAL(sum_of(parts, n), sum);
	return took;
}

static MAYBE int64_t store_write(struct store *s, u64 pos, const struct pc_part *parts, size_t n)
{
	return store_take(s, pos, parts, n, false);
}

/* A failed commit, or a new connection: acknowledged bytes that are not staged get their old content back. */
static MAYBE void store_forget(struct store *s)
{
	for (u64 k = 0; s->kept && k < s->room; k++)
		if (!s->kept[k])
			s->bytes[k] = s->old[k];
	if (s->left)
		memcpy(s->bytes, s->left, s->room);
}

static MAYBE int store_commit(struct store *s)
{
	store_meet(s, STORE_COMMITS);
	pthread_mutex_lock(&s->lock);
	int err = s->commit_error;
	s->commits++;
	if (!err) {
		memcpy(s->stable, s->bytes, s->room);
		s->stable_size = s->size;
		if (s->left)
			memcpy(s->left, s->bytes, s->room);
		if (s->kept) {
			memcpy(s->old, s->bytes, s->room);
			memset(s->kept, 0, s->room);
		}
	} else {
		store_forget(s);
	}
	pthread_mutex_unlock(&s->lock);
	store_meet(s, STORE_ANSWERS);
	return err;
}

static MAYBE void store_zero(struct store *s, u64 pos, u64 end)
{
	memset(s->bytes + pos, 0, end - pos);
	if (s->left)
		memset(s->left + pos, 0, end - pos);
	if (s->kept) {
		memset(s->old + pos, 0, end - pos);
		memset(s->kept + pos, 0, end - pos);
	}
}

static MAYBE void store_punch(struct store *s, u64 pos, u64 end)
{
	pthread_mutex_lock(&s->lock);
	store_zero(s, pos, end);
	pthread_mutex_unlock(&s->lock);
}

static MAYBE void store_truncate(struct store *s, u64 size)
{
	pthread_mutex_lock(&s->lock);
	CHECK(size <= s->room);
	if (size < s->size)
		store_zero(s, size, s->size);
	s->size = size;
	pthread_mutex_unlock(&s->lock);
}

#endif
