/* The loop, with a simulated kernel and handlers: requests answered without a handler, one answer to each request, requests
 * that wait for others, and that nothing is left behind. */
#include <sys/mount.h>

#include "tables.h"

enum { FILE_NODE = 7, FILE_FH = 33 };

static struct kernel kernel;
#define HOUR 3600000000000ll
static const struct pc_loop_options plain = {
	.entry_ns = HOUR, .attr_ns = HOUR, .workers = 3, .direct_io = 1, .known_timeout_ns = HOUR};

static struct pc_attributes attributes(u64 number)
{
	return (struct pc_attributes){.number = number, .mode = 0100644, .nlink = 1, .size = 5, .mtime_ns = 1};
}

/* A handler, one request at a time, in the thread of the test. */
static struct pc_fuse_request request;

static u32 next(void)
{
	CHECK(pc_loop_next(kernel.loop, &request));
	return request.op;
}

static void done(void)
{
	CHECK(pc_loop_done(kernel.loop, request.token));
}

/* Take a request, answer it, and be done. */
#define SERVE(op, reply, ...)                                                                                          \
	do {                                                                                                           \
		EQUAL(next(), op);                                                                                     \
		EQUAL(reply(kernel.loop, request.token, __VA_ARGS__), 0);                                              \
		done();                                                                                                \
	} while (0)

/* The answer to a request that is served so. */
#define SERVED(sent, op, reply, ...)                                                                                   \
	({                                                                                                             \
		u64 number = (sent);                                                                                   \
		SERVE(op, reply, __VA_ARGS__);                                                                         \
		answer_to(&kernel, number);                                                                            \
	})

/* Take a request and set it aside: others are taken beside it. */
static struct pc_fuse_request set_aside(u32 op)
{
	EQUAL(next(), op);
	struct pc_fuse_request r = request;
	request.memory = NULL;
	return r;
}

/* Answer one that was set aside. */
#define LEAVE(r, reply, ...)                                                                                           \
	do {                                                                                                           \
		EQUAL(reply(kernel.loop, (r).token, __VA_ARGS__), 0);                                                  \
		CHECK(pc_loop_done(kernel.loop, (r).token));                                                           \
		free((r).memory);                                                                                      \
	} while (0)

static void begin(struct pc_loop_options options)
{
	kernel_open(&kernel, options);
	memset(&request, 0, sizeof(request));
	CHECK(pc_loop_enter(kernel.loop));
}

static void end(void)
{
	pc_loop_leave(kernel.loop, &request);
	check_loop(kernel.loop);
	kernel_close(&kernel);
}

static struct pc_loop_counts counts(void)
{
	struct pc_loop_counts c;
	pc_loop_counts(kernel.loop, &c);
	return c;
}

/* An open file of a cache, fully cached. Return: the kernel's handle. */
static u64 open_cached(void)
{
	open_hits();
	struct answer a = SERVED(send_open(&kernel, FILE_NODE), PC_FUSE_OPEN, pc_reply_open, NULL,
				 opened_by(&kernel, FILE_NODE, FILE_FH), false);
	return fh_of(&a);
}

static u64 begin_cached(struct pc_loop_options options)
{
	begin(options);
	return open_cached();
}

/* The same; the kernel keeps pages. */
static u64 begin_with_pages(void)
{
	struct pc_loop_options options = plain;
	options.direct_io = 0;
	return begin_cached(options);
}

static void close_cached(u64 fh)
{
	if (fh) {
		EQUAL(SERVED(send_release(&kernel, FILE_NODE, fh), PC_FUSE_RELEASE, pc_reply_error, 0).error, 0);
		EQUAL(request.fh, FILE_FH);
	}
	close_hits(&kernel);
}

static void end_cached(u64 fh)
{
	close_cached(fh);
	end();
}

/* A write that goes to the handler, since a failure was reported, and that is set aside. */
static struct pc_fuse_request write_aside(u64 fh, u64 offset, u64 *unique)
{
	pc_opened_set_mark(opened, PC_REPORTED, true);
	*unique = send_write(&kernel, FILE_NODE, fh, offset, "a", 1);
	return set_aside(PC_FUSE_WRITE);
}

static void wait_for_submitted(u64 requests)
{
	while (counts().submitted < requests)
		pc_yield();
}

TEST(check_only_answers_that_are_not_cached_call_a_handler)
{
	u8 data[PAGE];
	u64 fh = begin_cached(plain), before = counts().submitted;
	struct answer a = answer_to(&kernel, send_read(&kernel, FILE_NODE, fh, 100, PAGE));
	EQUAL(a.len, PAGE);
	EQUAL(a.bytes[0], 7);
	memset(data, 9, sizeof(data));
	EQUAL(pc_opened_mark(opened, PC_WRITTEN_NS), 0);
	a = answer_to(&kernel, send_write(&kernel, FILE_NODE, fh, SIZE - 10, data, PAGE));
	EQUAL(OUT(a, fuse_write_out)->size, PAGE);
	CHECK(pc_opened_mark(opened, PC_WRITTEN_NS) > 0 && pc_opened_mark(opened, PC_WROTE));
	a = answer_to(&kernel, send_read(&kernel, FILE_NODE, fh, SIZE - 11, 2 * PAGE)); /* to the new end */
	EQUAL(a.len, PAGE + 1);
	EQUAL(a.bytes[0], 7);
	EQUAL(a.bytes[1], 9);
	EQUAL(counts().submitted, before);
	EQUAL(counts().reads, 2);
	EQUAL(counts().writes, 1);
	atomic_store(&closed, 1);
	u64 missed = send_read(&kernel, FILE_NODE, fh, 0, 10);
	EQUAL(next(), PC_FUSE_READ);
	/* More than was requested, all of it, twice. */
	EQUAL(pc_reply_data(kernel.loop, request.token, "0123456789ab", 12), (u64)-EPROTO);
	EQUAL(pc_reply_data(kernel.loop, request.token, "0123456789", 10), 0);
	EQUAL(pc_reply_data(kernel.loop, request.token, "0123456789", 10), (u64)-ENOENT);
	done();
	EQUAL(answer_to(&kernel, missed).len, 10);
	end_cached(fh);
}

/* getattr of an open file, which the handler answers. */
static void see_attributes(void)
{
	struct pc_attributes a = attributes(FILE_NODE);
	EQUAL(SERVED(send_getattr(&kernel, FILE_NODE), PC_FUSE_GETATTR, pc_reply_attributes, &a).error, 0);
}

/* getattr of an open file, which the loop answers by itself. */
static struct fuse_attr known_attributes(void)
{
	u64 before = counts().submitted;
	struct answer a = answer_to(&kernel, send_getattr(&kernel, FILE_NODE));
	EQUAL(a.error, 0);
	EQUAL(counts().submitted, before);
	return OUT(a, fuse_attr_out)->attr;
}

static u64 send_chmod(void)
{
	return SEND(&kernel, FUSE_SETATTR, FILE_NODE, fuse_setattr_in, .valid = FATTR_MODE, .mode = 0600);
}

TEST(check_attributes_of_an_open_file_are_repeated_until_something_changes)
{
	struct pc_attributes old = attributes(FILE_NODE);
	u64 fh = begin_cached(plain);
	for (int removal = 0; removal <= 1; removal++) { /* which may change the number of links of any file */
		see_attributes();
		known_attributes();
		EQUAL(counts().getattrs, 1 + removal);
		u64 change = removal ? send_to(&kernel, FUSE_UNLINK, 1, "a", 2) : send_chmod();
		struct pc_fuse_request changing = set_aside(removal ? PC_FUSE_UNLINK : PC_FUSE_SETATTR);
		u64 during = send_getattr(&kernel, FILE_NODE); /* while it runs */
		struct pc_fuse_request looking = set_aside(PC_FUSE_GETATTR);
		if (removal)
			LEAVE(changing, pc_reply_error, 0);
		else
			LEAVE(changing, pc_reply_attributes, &old);
		EQUAL(answer_to(&kernel, change).error, 0);
		/* Perhaps from before the change: the handler is called again. */
		LEAVE(looking, pc_reply_attributes, &old);
		EQUAL(answer_to(&kernel, during).error, 0);
	}
	see_attributes();
	end_cached(fh);
}

/* The answer to a request that began before the file was open may be from before a change. */
TEST(check_attributes_from_before_an_open_are_not_repeated)
{
	struct pc_attributes old = attributes(FILE_NODE);
	begin(plain);
	u64 early = send_getattr(&kernel, FILE_NODE);
	struct pc_fuse_request looking = set_aside(PC_FUSE_GETATTR);
	EQUAL(SERVED(send_chmod(), PC_FUSE_SETATTR, pc_reply_attributes, &old).error, 0);
	EQUAL(request.fields, PC_SET_MODE);
	EQUAL(counts().nodes, 0);
	u64 fh = open_cached();
	EQUAL(counts().nodes, 1);
	LEAVE(looking, pc_reply_attributes, &old);
	EQUAL(answer_to(&kernel, early).error, 0);
	see_attributes();
	close_cached(fh);
	EQUAL(counts().nodes, 0);
	end();
}

TEST(check_an_answer_that_is_none_is_refused)
{
	struct pc_attributes a = attributes(9), none = attributes(0);
	u64 fields[9] = {0};
	begin(plain);
	u64 unique = send_getattr(&kernel, 9);
	EQUAL(next(), PC_FUSE_GETATTR);
	u64 token = request.token;
	EQUAL(pc_reply_attributes(kernel.loop, token, &none), (u64)-EPROTO);
	EQUAL(pc_reply_data(kernel.loop, token, "", 0), (u64)-EPROTO);
	EQUAL(pc_reply_number(kernel.loop, token, 1), (u64)-EPROTO);
	EQUAL(pc_reply_statfs(kernel.loop, token, fields), (u64)-EPROTO);
	EQUAL(pc_reply_open(kernel.loop, token, NULL, NULL, false), (u64)-EPROTO);
	EQUAL(pc_reply_error(kernel.loop, token, 0), (u64)-EPROTO);
	EQUAL(pc_reply_attributes(kernel.loop, token ^ 1ull << 40, &a), (u64)-ENOENT);
	EQUAL(pc_reply_attributes(kernel.loop, UINT64_MAX, &a), (u64)-ENOENT);
	CHECK(!pc_loop_done(kernel.loop, token ^ 1ull << 40));
	CHECK(!has_answer(&kernel, unique));
	EQUAL(pc_reply_error(kernel.loop, token, -3), 0); /* no errno: EIO */
	done();
	CHECK(!pc_loop_done(kernel.loop, token));
	EQUAL(pc_reply_attributes(kernel.loop, token, &a), (u64)-ENOENT);
	EQUAL(answer_to(&kernel, unique).error, EIO);
	CHECK(counts().refused >= 6);
	unique = send_getattr(&kernel, 9);
	next();
	done(); /* without an answer */
	EQUAL(answer_to(&kernel, unique).error, EIO);
	end();
}

TEST(check_deadlines)
{
	struct pc_attributes a = attributes(FILE_NODE);
	struct pc_loop_options options = plain;
	options.timeout_ns = 20000000;
	begin(options);
	u64 taken = send_getattr(&kernel, 9);
	next();
	EQUAL(answer_to(&kernel, taken).error, EIO);
	EQUAL(pc_reply_attributes(kernel.loop, request.token, &a), (u64)-ENOENT); /* late */
	done();
	u64 queued = send_getattr(&kernel, 9);
	EQUAL(answer_to(&kernel, queued).error, EIO);
	u64 last = send_getattr(&kernel, 10); /* the one answered in the queue is no longer called */
	next();
	EQUAL(request.number, 10);
	pc_reply_error(kernel.loop, request.token, ENOENT); /* or its deadline was first */
	done();
	int error = answer_to(&kernel, last).error;
	CHECK(error == ENOENT || error == EIO);
	EQUAL(counts().late, 1 + (error == EIO));
	end();
}

/* A file that is closed beside a late getattr: nothing knows its size but the handler, and an error of that is not hidden by
 * what was known. There an fsync keeps the node. */
TEST(check_a_file_that_was_closed_has_no_known_attributes)
{
	for (int fails = 0; fails <= 1; fails++) {
		struct pc_loop_options options = plain;
		options.known_timeout_ns = fails ? HOUR : 20000000;
		u64 fh = begin_cached(options);
		struct pc_attributes a = attributes(FILE_NODE);
		a.size = SIZE / 2;
		pc_attributes_known(kernel.loop, &a);
		u64 released = send_release(&kernel, FILE_NODE, fh);
		struct pc_fuse_request releasing = set_aside(PC_FUSE_RELEASE);
		u64 unique = send_getattr(&kernel, FILE_NODE);
		u64 synced = fails ? send_fsync(&kernel, FILE_NODE, fh) : 0;
		wait_for_submitted(3 + fails);
		pc_opened_end(kernel.loop, opened);
		usleep(fails ? 0 : 100000); /* past the deadline */
		LEAVE(releasing, pc_reply_error, 0);
		EQUAL(answer_to(&kernel, released).error, 0);
		a.size = SIZE;
		for (int k = 0; k <= fails; k++) { /* the getattr waited in its thread: the fsync may come first */
			bool asked = next() == PC_FUSE_GETATTR;
			if (asked && !fails)
				EQUAL(pc_reply_attributes(kernel.loop, request.token, &a), 0);
			else
				EQUAL(pc_reply_error(kernel.loop, request.token, asked ? EIO : 0), 0);
			done();
		}
		struct answer answer = answer_to(&kernel, unique);
		EQUAL(answer.error, fails ? EIO : 0);
		CHECK(fails || OUT(answer, fuse_attr_out)->attr.size == SIZE);
		CHECK(!fails || answer_to(&kernel, synced).error == 0);
		EQUAL(counts().expired, 0);
		end_cached(0);
	}
}

/* An open file has the store's blocks and those of bytes taken since. The sum lies within whole pages of the size,
 * and equals the size if the store reports no blocks. */
TEST(check_blocks_count_what_was_taken_since)
{
	struct pc_attributes a = attributes(FILE_NODE);
	u64 fh = begin_cached(plain);
	u64 allocated[] = {0, PAGE, 4 * SIZE, PC_NOT_KNOWN}, expected[] = {PAGE, 2 * PAGE, 4 * SIZE, SIZE};
	for (u32 k = 0; k < 4; k++) {
		a.allocated = allocated[k];
		a.taken = pc_hit_taken(hit) - PAGE;
		pc_notify_inode(kernel.loop, FILE_NODE, -1, 0);
		EQUAL(SERVED(send_getattr(&kernel, FILE_NODE), PC_FUSE_GETATTR, pc_reply_attributes, &a).error, 0);
		EQUAL(known_attributes().blocks, expected[k] / 512);
	}
	end_cached(fh);
}

static pid_t ended_process(void)
{
	pid_t child = fork();
	if (child == 0)
		_exit(0);
	EQUAL(waitpid(child, NULL, 0), child);
	return child;
}

static u64 send_getattr_as(pid_t pid, u64 node)
{
	struct fuse_getattr_in in = {0};
	return send_as(&kernel, (u32)pid, FUSE_GETATTR, node, &in, sizeof(in), NULL, 0);
}

/* They come at each point: taken, answered, in the queue (below); of a program that is gone, and of one that goes on. */
TEST(check_interrupts)
{
	struct pc_attributes a = attributes(9);
	pid_t gone = ended_process();
	begin(plain);
	u64 unique = send_getattr_as(gone, 9);
	EQUAL(next(), PC_FUSE_GETATTR);
	send_interrupt(&kernel, unique);
	EQUAL(answer_to(&kernel, unique).error, EINTR);
	EQUAL(pc_reply_attributes(kernel.loop, request.token, &a), (u64)-ENOENT);
	done();

	unique = send_getattr(&kernel, 9);
	send_interrupt(&kernel, unique);
	EQUAL(SERVED(unique, PC_FUSE_GETATTR, pc_reply_attributes, &a).error, 0); /* this one goes on */
	send_interrupt(&kernel, unique); /* late: the kernel tries again, and gets EAGAIN, or has forgotten */
	EQUAL(counts().interrupted, 1);
	end();
}

/* Interrupt a request, and wait until the clock thread has seen that: it looks at slots in their order, and behind this one
 * it finds that of a program that is gone. One worker. */
static void interrupt_without_effect(u64 unique)
{
	u64 interrupted = counts().interrupted, behind = send_getattr_as(ended_process(), 9);
	EQUAL(next(), PC_FUSE_GETATTR);
	send_interrupt(&kernel, unique);
	send_interrupt(&kernel, behind);
	EQUAL(answer_to(&kernel, behind).error, EINTR);
	EQUAL(counts().interrupted, interrupted + 1);
	CHECK(!has_answer(&kernel, unique));
	done();
}

/* The kernel reports 0 for a program outside of the server's pid namespace; and /proc may hide programs of other users. */
TEST(check_a_program_that_cannot_be_seen_goes_on_after_a_signal)
{
	struct pc_attributes a = attributes(9);
	struct pc_loop_options options = plain;
	options.workers = 1;
	bool hides = !unshare(CLONE_NEWNS) && !mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL); /* as root */
	begin(options);
	for (int hidden = 0; hidden <= hides; hidden++) {
		u64 unique = send_getattr_as(hidden ? getpid() : 0, 9);
		struct pc_fuse_request asked = set_aside(PC_FUSE_GETATTR);
		CHECK(!hidden || !mount("none", "/proc", "tmpfs", 0, NULL));
		interrupt_without_effect(unique);
		CHECK(!hidden || !umount("/proc"));
		LEAVE(asked, pc_reply_attributes, &a);
		EQUAL(answer_to(&kernel, unique).error, 0);
	}
	end();
}

/* The kernel reports its first signal only. */
TEST(check_a_program_that_is_killed_after_another_signal_does_not_wait)
{
	struct pc_loop_options options = plain;
	options.workers = 1;
	pid_t child = fork();
	if (child == 0) {
		alarm(2 * KERNEL_WAIT_MS / 1000); /* if the test fails */
		pause();
		_exit(0);
	}
	begin(options);
	u64 unique = send_getattr_as(child, 9);
	EQUAL(next(), PC_FUSE_GETATTR);
	struct pc_fuse_request asked = request;
	interrupt_without_effect(unique);
	EQUAL(kill(child, SIGKILL), 0);
	EQUAL(waitpid(child, NULL, 0), child);
	EQUAL(answer_to(&kernel, unique).error, EINTR);
	CHECK(pc_loop_done(kernel.loop, asked.token));
	EQUAL(counts().interrupted, 2);
	end();
}

/* The thread that answers interrupts may begin late. Without its check before the first sleep one round in some hundred hangs. */
TEST(check_an_interrupt_at_the_beginning_is_answered)
{
	pid_t gone = ended_process();
	for (u32 round = 0; round < 300; round++) {
		begin(plain);
		u64 unique = send_getattr_as(gone, 9);
		send_interrupt(&kernel, unique);
		EQUAL(answer_to(&kernel, unique).error, EINTR); /* in the queue: no handler takes it */
		end();
	}
}

/* The kernel keeps pages: a request for the bytes of a waiting write also waits; those for other bytes do not. */
TEST(check_requests_for_the_same_bytes_keep_their_order)
{
	u64 fh = begin_with_pages();
	u64 first;
	struct pc_fuse_request writing = write_aside(fh, 100, &first);
	pc_opened_set_mark(opened, PC_REPORTED, false);
	static const char data[55] = "0123456789";
	u64 second = send_write(&kernel, FILE_NODE, fh, 50, data, sizeof(data));
	u64 read = send_read(&kernel, FILE_NODE, fh, 0, PAGE);
	u64 elsewhere = send_read(&kernel, FILE_NODE, fh, PAGE, PAGE);
	EQUAL(answer_to(&kernel, elsewhere).len, PAGE);
	/* The next taker does not get the ones before it. */
	EQUAL(SERVED(send_getattr(&kernel, 9), PC_FUSE_GETATTR, pc_reply_error, ENOENT).error, ENOENT);
	CHECK(!has_answer(&kernel, second) && !has_answer(&kernel, read));
	check_loop(kernel.loop); /* one slot is taken, two are held */
	LEAVE(writing, pc_reply_number, 1);
	EQUAL(answer_to(&kernel, first).error, 0);
	EQUAL(next(), PC_FUSE_WRITE);
	EQUAL(request.offset, 50);
	CHECK(!has_answer(&kernel, read));
	EQUAL(pc_reply_number(kernel.loop, request.token, 55), 0);
	EQUAL(answer_to(&kernel, second).error, 0);
	done();
	EQUAL(SERVED(read, PC_FUSE_READ, pc_reply_data, "x", 1).len, 1);
	EQUAL(answer_to(&kernel, send_read(&kernel, FILE_NODE, fh, 0, PAGE)).len, PAGE); /* and hits work again */
	end_cached(fh);
}

/* A write whose program is killed, and whose call goes on. */
static struct pc_fuse_request write_given_up(u64 fh)
{
	pid_t gone = ended_process();
	struct fuse_write_in in = {.fh = fh, .size = 1};
	pc_opened_set_mark(opened, PC_REPORTED, true);
	u64 first = send_as(&kernel, (u32)gone, FUSE_WRITE, FILE_NODE, &in, sizeof(in), "a", 1);
	struct pc_fuse_request writing = set_aside(PC_FUSE_WRITE);
	pc_opened_set_mark(opened, PC_REPORTED, false);
	send_interrupt(&kernel, first);
	EQUAL(answer_to(&kernel, first).error, EINTR);
	return writing;
}

/* Send a write of a byte, which is held. */
static u64 write_held(u64 fh, u64 offset)
{
	u64 submitted = counts().submitted, unique = send_write(&kernel, FILE_NODE, fh, offset, "b", 1);
	while (!has_answer(&kernel, unique) && counts().submitted == submitted)
		pc_yield();
	CHECK(!has_answer(&kernel, unique));
	EQUAL(SERVED(send_getattr(&kernel, 9), PC_FUSE_GETATTR, pc_reply_error, ENOENT).error, ENOENT);
	check_loop(kernel.loop);
	return unique;
}

static void leave_unanswered(struct pc_fuse_request r)
{
	CHECK(pc_loop_done(kernel.loop, r.token));
	free(r.memory);
}

/* With direct I/O too: its program is told an error, and another write of these bytes must stay. */
TEST(check_a_write_that_was_answered_early_is_before_later_ones)
{
	u64 fh = begin_cached(plain);
	struct pc_fuse_request writing = write_given_up(fh);
	u64 second = write_held(fh, 0);
	leave_unanswered(writing);
	EQUAL(SERVED(second, PC_FUSE_WRITE, pc_reply_number, 1).error, 0);
	end_cached(fh);
}

/* Send a truncate, or an open that truncates to 0. */
static u64 send_truncate(pid_t pid, bool opens, u64 size)
{
	struct fuse_setattr_in in = {.valid = FATTR_SIZE, .size = size};
	struct fuse_open_in open = {.flags = O_RDWR | O_TRUNC};
	return opens ? send_as(&kernel, (u32)pid, FUSE_OPEN, FILE_NODE, &open, sizeof(open), NULL, 0)
		     : send_as(&kernel, (u32)pid, FUSE_SETATTR, FILE_NODE, &in, sizeof(in), NULL, 0);
}

/* The bytes of that write must not come back. */
TEST(check_a_truncate_is_behind_a_write_that_was_answered_early)
{
	struct pc_attributes a = attributes(FILE_NODE);
	for (u32 kind = 0; kind < 4; kind++) {
		bool opens = kind & 1;
		u64 fh = kind & 2 ? begin_with_pages() : begin_cached(plain);
		struct pc_fuse_request writing = write_given_up(fh);
		u64 held = send_truncate(getpid(), opens, 0);
		u64 behind = send_truncate(getpid(), false, 1); /* it has none of its bytes */
		wait_for_submitted(4);
		EQUAL(SERVED(behind, PC_FUSE_SETATTR, pc_reply_attributes, &a).error, 0);
		CHECK(!has_answer(&kernel, held));
		check_loop(kernel.loop);
		leave_unanswered(writing);
		EQUAL(SERVED(held, opens ? PC_FUSE_OPEN : PC_FUSE_SETATTR, pc_reply_error, ENOENT).error, ENOENT);
		end_cached(fh);
	}
}

/* It must cut nothing off that was written since. Reads, and writes before its size, go on. */
TEST(check_writes_are_behind_a_truncate_that_was_answered_early)
{
	pid_t gone = ended_process();
	for (u32 kind = 0; kind < 4; kind++) {
		bool opens = kind & 1;
		u64 fh = kind & 2 ? begin_with_pages() : begin_cached(plain), unique = send_truncate(gone, opens, PAGE);
		struct pc_fuse_request truncating = set_aside(opens ? PC_FUSE_OPEN : PC_FUSE_SETATTR);
		send_interrupt(&kernel, unique);
		EQUAL(answer_to(&kernel, unique).error, EINTR);
		u64 written = write_held(fh, PAGE), again = send_truncate(getpid(), !opens, PAGE);
		wait_for_submitted(5);
		EQUAL(answer_to(&kernel, send_read(&kernel, FILE_NODE, fh, 2 * PAGE, 1)).len, 1);
		if (!opens)
			EQUAL(answer_to(&kernel, send_write(&kernel, FILE_NODE, fh, 0, "c", 1)).error, 0);
		EQUAL(SERVED(send_getattr(&kernel, 9), PC_FUSE_GETATTR, pc_reply_error, ENOENT).error, ENOENT);
		check_loop(kernel.loop);
		leave_unanswered(truncating);
		EQUAL(SERVED(written, PC_FUSE_WRITE, pc_reply_number, 1).error, 0);
		EQUAL(SERVED(again, opens ? PC_FUSE_SETATTR : PC_FUSE_OPEN, pc_reply_error, ENOENT).error, ENOENT);
		end_cached(fh);
	}
}

/* Early, as every request, and at the end of the loop. Its call is not made, and holds no other. */
TEST(check_a_truncate_that_is_held_is_answered)
{
	u64 fh = begin_cached(plain);
	struct pc_fuse_request writing = write_given_up(fh);
	u64 killed = send_truncate(ended_process(), false, 0);
	send_interrupt(&kernel, killed);
	EQUAL(answer_to(&kernel, killed).error, EINTR);
	EQUAL(answer_to(&kernel, send_write(&kernel, FILE_NODE, fh, PAGE, "b", 1)).error, 0);
	u64 held = send_truncate(getpid(), true, 0);
	wait_for_submitted(4);
	pc_loop_stop(kernel.loop, true);
	EQUAL(answer_to(&kernel, held).error, EIO);
	leave_unanswered(writing);
	CHECK(!pc_loop_next(kernel.loop, &request));
	CHECK(pc_loop_drain(kernel.loop, 0, false));
	end_cached(0);
}

static void *serve_a_read(void *unused MAYBE)
{
	struct pc_fuse_request r = {0};
	CHECK(pc_loop_enter(kernel.loop));
	CHECK(pc_loop_next(kernel.loop, &r));
	EQUAL(pc_reply_data(kernel.loop, r.token, "x", 1), 0);
	CHECK(pc_loop_done(kernel.loop, r.token));
	pc_loop_leave(kernel.loop, &r);
	return NULL;
}

/* A handler waits while a read is held. It gets the read when the write before it ends, though no request arrives. */
TEST(check_the_end_of_a_write_wakes_a_handler)
{
	pthread_t other;
	u64 fh = begin_with_pages(), written;
	struct pc_fuse_request writing = write_aside(fh, 0, &written);
	u64 read = send_read(&kernel, FILE_NODE, fh, 0, 1);
	EQUAL(pthread_create(&other, NULL, serve_a_read, NULL), 0);
	wait_for_submitted(3);
	usleep(100000); /* it waits */
	CHECK(!has_answer(&kernel, read));
	LEAVE(writing, pc_reply_number, 1);
	EQUAL(answer_to(&kernel, read).len, 1);
	EQUAL(answer_to(&kernel, written).error, 0);
	EQUAL(pthread_join(other, NULL), 0);
	end_cached(fh);
}

/* One request is in the queue, one taken, one held: all get EIO, and the handler learns that the answer is unwanted. */
TEST(check_the_end_answers_all_waiters)
{
	struct pc_attributes a = attributes(9);
	u64 fh = begin_with_pages();
	u64 taken = send_getattr(&kernel, 9);
	next();
	pc_opened_set_mark(opened, PC_REPORTED, true);
	u64 queued = send_write(&kernel, FILE_NODE, fh, 0, "a", 1);
	u64 held = send_read(&kernel, FILE_NODE, fh, 0, 1);
	wait_for_submitted(4);
	check_loop(kernel.loop);
	pc_loop_stop(kernel.loop, true);
	EQUAL(answer_to(&kernel, taken).error, EIO);
	EQUAL(answer_to(&kernel, queued).error, EIO);
	EQUAL(answer_to(&kernel, held).error, EIO);
	EQUAL(pc_reply_attributes(kernel.loop, request.token, &a), (u64)-ENOENT);
	done();
	CHECK(!pc_loop_next(kernel.loop, &request));
	EQUAL(pc_notify_inode(kernel.loop, 9, 0, 0), (u64)-ENOTCONN);
	end_cached(0);
}

/* A program does not wait for the release of its file, which may be the call that publishes it. */
TEST(check_releases_are_taken_after_the_end)
{
	u64 fh = begin_with_pages();
	send_getattr(&kernel, 9);
	struct pc_fuse_request taken = set_aside(PC_FUSE_GETATTR);
	send_fsync(&kernel, FILE_NODE, fh);
	send_release(&kernel, FILE_NODE, fh);
	wait_for_submitted(4);
	pc_loop_stop(kernel.loop, true);
	check_loop(kernel.loop);
	CHECK(!pc_loop_drain(kernel.loop, 0, true));
	EQUAL(next(), PC_FUSE_RELEASE);
	CHECK(!pc_loop_drain(kernel.loop, 0, true));
	done();
	CHECK(pc_loop_drain(kernel.loop, 0, true));
	CHECK(!pc_loop_drain(kernel.loop, 0, false));
	CHECK(!pc_loop_next(kernel.loop, &request));
	CHECK(pc_loop_done(kernel.loop, taken.token));
	CHECK(pc_loop_drain(kernel.loop, 0, false));
	end_cached(0);
}
