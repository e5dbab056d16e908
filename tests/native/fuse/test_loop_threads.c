/* The loop with everything at once: programs that read, write, look up and forget; handlers that answer rightly, wrongly,
 * twice or not at all; interrupts, deadlines, notices, and in the end a stop in the middle. Each request is answered once
 * (kernel.h). The node counts given out equal those that the handlers got to forget. */
#include "tables.h"

enum { PROGRAMS = 3, HANDLERS = 3, ROUNDS = 400, NODES = 20, FILE_NODE = 5 };

static struct kernel kernel;
static u64 fh;
static _Atomic bool over;
static _Atomic i64 counted; /* by handlers, of nodes */

static u32 rolled(u32 *seed, u32 n)
{
	*seed = *seed * 1664525u + 1013904223u;
	return (*seed >> 8) % n;
}

/* Answer as a handler: mostly right, sometimes nonsense. */
static void reply(struct pc_fuse_request *a, u32 *seed)
{
	static u8 bytes[SIZE];
	struct pc_attributes node = {.number = a->op == PC_FUSE_LOOKUP ? 100 + a->tick % NODES : a->number,
				     .mode = 0100644};
	struct pc_forgotten forgotten;
	while (a->op == PC_FUSE_FORGET && pc_loop_forgotten(kernel.loop, &forgotten, 1))
		atomic_fetch_sub(&counted, (i64)forgotten.times);
	u32 fate = rolled(seed, 8);
	if (fate == 0)
		return; /* no answer */
	if (fate == 1)
		pc_reply_number(kernel.loop, a->token, UINT64_MAX);
	if (fate == 2)
		pc_reply_data(kernel.loop, a->token ^ 3, (const char *)bytes, 5000);
	if (a->op == PC_FUSE_LOOKUP) {
		atomic_fetch_add(&counted, 1);
		if (pc_reply_attributes(kernel.loop, a->token, &node))
			atomic_fetch_sub(&counted, 1);
	} else if (a->op == PC_FUSE_GETATTR) {
		pc_reply_attributes(kernel.loop, a->token, &node);
	} else if (a->op == PC_FUSE_READ) {
		pc_reply_data(kernel.loop, a->token, (const char *)bytes, a->size);
	} else if (a->op == PC_FUSE_WRITE) {
		pc_reply_number(kernel.loop, a->token, a->size);
	}
	if (fate == 3)
		pc_reply_error(kernel.loop, a->token, 5);
}

static void *handler(void *number)
{
	struct pc_fuse_request a = {0};
	u32 seed = (u32)(uintptr_t)number;
	CHECK(pc_loop_enter(kernel.loop));
	while (pc_loop_next(kernel.loop, &a)) {
		reply(&a, &seed);
		CHECK(pc_loop_done(kernel.loop, a.token));
	}
	pc_loop_leave(kernel.loop, &a);
	return NULL;
}

static void look_up_and_forget(u32 *seed)
{
	char name[8];
	snprintf(name, sizeof(name), "n%u", rolled(seed, NODES));
	u64 unique = send_lookup(&kernel, 1, name);
	if (rolled(seed, 3) == 0)
		send_interrupt(&kernel, unique);
	struct answer a = answer_to(&kernel, unique);
	if (!a.error)
		send_forget(&kernel, OUT(a, fuse_entry_out)->nodeid, 1);
}

static void *program(void *number)
{
	static const u8 data[3 * PAGE] = {1, 2, 3};
	u32 seed = 1000 + (u32)(uintptr_t)number;
	for (u32 round = 0; round < ROUNDS; round++) {
		u32 what = rolled(&seed, 5), at = rolled(&seed, SIZE);
		if (what == 0)
			answer_to(&kernel, send_write(&kernel, FILE_NODE, fh, at, data, 1 + rolled(&seed, 4000)));
		else if (what == 1)
			answer_to(&kernel, send_read(&kernel, FILE_NODE, fh, at, 1 + rolled(&seed, 3 * PAGE)));
		else if (what == 2)
			answer_to(&kernel, send_getattr(&kernel, rolled(&seed, 2) ? FILE_NODE : 100));
		else
			look_up_and_forget(&seed);
	}
	return NULL;
}

static void *changer(void *unused MAYBE)
{
	while (!atomic_load(&over)) {
		pc_notify_inode(kernel.loop, FILE_NODE, 0, 0);
		pc_notify_entry(kernel.loop, 1, "n3");
		check_loop(kernel.loop);
		if (pc_inode_lock_try(file->inode, PC_EXCLUSIVE)) {
			sched_yield();
			pc_inode_lock_release(file->inode, PC_EXCLUSIVE);
		}
	}
	return NULL;
}

static void everything(bool direct, bool stopped)
{
	struct pc_fuse_request a = {0};
	pthread_t programs[PROGRAMS], handlers[HANDLERS], other;
	const i64 hour = 3600000000000ll;
	kernel_open(&kernel, (struct pc_loop_options){hour, hour, hour, .known_timeout_ns = hour, .workers = 3,
						      .direct_io = direct});
	open_hits();
	CHECK(pc_loop_enter(kernel.loop));
	u64 unique = send_open(&kernel, FILE_NODE);
	CHECK(pc_loop_next(kernel.loop, &a));
	EQUAL(pc_reply_open(kernel.loop, a.token, NULL, opened_by(&kernel, FILE_NODE, 1), false), 0);
	CHECK(pc_loop_done(kernel.loop, a.token));
	pc_loop_leave(kernel.loop, &a);
	struct answer answer = answer_to(&kernel, unique);
	fh = fh_of(&answer);

	atomic_store(&over, false);
	atomic_store(&counted, 0);
	start_threads(handlers, HANDLERS, handler);
	start_threads(programs, PROGRAMS, program);
	EQUAL(pthread_create(&other, NULL, changer, NULL), 0);
	join_threads(programs, PROGRAMS);
	CHECK(stopped || pc_loop_drain(kernel.loop, 60000000000ll, false));
	if (!stopped) {
		/* A handler whose reply was refused, as its request was interrupted, takes its count back after that. */
		for (u32 k = 0; k < 10000000 && atomic_load(&counted); k++)
			sched_yield();
		EQUAL(atomic_load(&counted), 0); /* both sides agree */
	}
	u64 waiting = send_getattr(&kernel, 7777);
	if (stopped) /* in the middle of any handler's work */
		send_lookup(&kernel, 1, "last");
	else
		answer_to(&kernel, waiting);
	pc_loop_stop(kernel.loop, true);
	atomic_store(&over, true);
	EQUAL(pthread_join(other, NULL), 0);
	join_threads(handlers, HANDLERS);
	close_hits(&kernel);
	kernel_close(&kernel);
}

TEST(check_many_workers_or_one_and_turns_to_the_end_or_a_stop)
{
	for (int k = 0; k < 4; k++)
		everything(k & 1, k & 2);
}
