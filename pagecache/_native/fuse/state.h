/*
 * state.h - the loop's data, for the files of this folder: session.c (threads and their end), queue.c (pending requests),
 * slots.c (their states), turns.c (their order), reply.c (their answers), operations.c (libfuse's callbacks),
 * attributes.c (open files and their attributes), notify.c.
 *
 * Locks, never held over a call of libfuse or of CORE except as listed:
 *
 *   lock         requests, queue, handlers, senders        queue.c
 *   nodes_lock   nodes of open files                       attributes.c; pc_hit_calls.length and .taken within it
 *
 * No thread holds both. libfuse's locks of a request and of its session are outside of `lock`: libfuse calls
 * interrupted() (queue.c) with them held.
 */
#ifndef PC_FUSE_STATE_H
#define PC_FUSE_STATE_H

#define FUSE_USE_VERSION 35
#include <fuse_lowlevel.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#include "loop.h"
#include "pagecache.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef int32_t i32;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t i64;

enum {
	PC_WORKERS_MAX = 16,
	PC_REPLY_MAX = 1 << 20, /* largest read that a worker answers */
	PC_STEAL_MIN = 64 << 10, /* writes of at least this size keep their receive buffer */
	PC_SLOTS_MAX = 1 << 20,
	PC_NODES = 1 << 14, /* lists in the table of open files */
};

enum slot_state { SLOT_FREE, SLOT_MADE, SLOT_QUEUED, SLOT_TAKEN, SLOT_STATES }; /* slots.c */

/* A request for a handler. */
struct slot {
	struct slot *next; /* in the queue, or free */
	fuse_req_t req;    /* NULL: answered, or it needs no answer */
	struct pc_fuse_request request;
	i64 due_ns; /* INT64_MAX: never */
	i64 look_ns; /* when its program is looked at, which has received a signal; INT64_MAX: never */
	struct slot *next_turn; /* turns.c */
	u64 order;
	u8 turn;
	u32 generation, index;
	u8 state; /* enum slot_state; only pc_slot_move() writes it */
	u8 known;       /* its answer may be the last known attributes */
	u8 changes;     /* attributes that it changes: CHANGES_*; 0: none */
};
enum { CHANGES_NODE = 1, CHANGES_ALL }; /* of one node, of any node */

struct pc_opened {
	struct pc_hit *hit; /* NULL: handlers do all reads and writes */
	u64 number, fh;
	struct pc_opened *next; /* of its node; `nodes_lock` */
	_Atomic i64 marks[PC_NR_MARKS];
};

struct worker {
	struct pc_loop *loop;
	pthread_t thread;
	struct fuse_buf buf;
	char *reply;
};

/* An open file, or one that is being changed; attributes.c, `nodes_lock`. */
struct node {
	struct node *next; /* of its bucket */
	u64 number;
	u64 changed;  /* tick */
	u32 changing; /* calls that run */
	bool seen;    /* attributes were returned once */
	u64 seen_tick;
	i64 until_ns; /* attributes are valid until then; 0: invalid */
	struct pc_attributes attributes;
	struct pc_opened *opened;
};

struct pc_loop {
	struct fuse_session *session;
	const struct pc_hit_calls *calls;
	struct pc_loop_options options;
	struct pc_loop_counts counts; /* atomic; `nodes` is not used */
	int ended_fd; /* readable once the kernel has cut the connection */

	pthread_mutex_t lock; /* guards the next lines */
	pthread_cond_t queued, clock, sent;
	struct slot **slots, *free;
	struct slot *first, **last; /* the queue; `last`: the end of its list */
	struct slot *turns; /* turns.c */
	_Atomic u32 nr_turns;
	u32 nr_slots, handlers, idle, senders, busy; /* busy: slots that are not free */
	u32 saving; /* those of them whose calls save files */
	struct pc_forgotten *forgotten; /* nodes that handlers have yet to fetch */
	u64 nr_forgotten, room_forgotten;
	u8 forget_queued; /* a request that fetches them is queued */
	i64 due_ns; /* when the clock thread has a slot to check */
	_Atomic i64 silent_until_ns; /* the file system failed to answer: it is not called for attributes until then */
	_Atomic u8 stopped;
	u8 closed; /* the session is gone */

	pthread_mutex_t nodes_lock; /* guards the next lines */
	struct node *nodes[PC_NODES]; /* by a hash of their numbers */
	u64 nr_nodes, tick, all_changed;
	u32 all_changing;

	pthread_t clock_thread;
	struct worker workers[PC_WORKERS_MAX];
	u32 nr_workers;
	u8 mounted, started, serving; /* started: the clock thread runs; serving: workers too */
	bool initialized;
	_Atomic u64 init_unique; /* of the first request, until it is answered (session.c) */
	u32 init_flags, init_flags2; /* to be added to its answer */
};

static inline i64 ns_of(struct timespec t)
{
	return (i64)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline i64 now_ns(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return ns_of(t);
}

/* Whether a call saves a file: unlike others it is worth its time after the end, too. */
static inline bool saves(const struct slot *s)
{
	u32 op = s->request.op;
	return op == PC_FUSE_FLUSH || op == PC_FUSE_FSYNC || op == PC_FUSE_RELEASE;
}

static inline void count(u64 *counter)
{
	__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

/* A request for a node, with other fields after the number of its open file. */
#define REQUEST(op_, number_, fh_, ...)                                                                                \
	(struct pc_fuse_request)                                                                                       \
	{                                                                                                              \
		.op = op_, .number = number_, .fh = fh_, ##__VA_ARGS__                                                 \
	}

extern _Thread_local struct worker *pc_worker; /* the worker of this thread, or NULL */

/* session.c */
void pc_session_begun(void *loop, struct fuse_conn_info *connection);

/* operations.c */
extern const struct fuse_lowlevel_ops pc_operations;

/* slots.c */
void pc_slot_move(struct slot *s, enum slot_state to);
i64 pc_slot_due(const struct pc_loop *l, const struct slot *s);
struct slot *pc_slot_new(struct pc_loop *l, fuse_req_t req, struct pc_fuse_request request);
struct slot *pc_slot_of(struct pc_loop *l, u64 token);
struct slot *pc_slot_submitted(struct pc_loop *l, u64 token);
void pc_slot_queue(struct pc_loop *l, struct slot *s);
void pc_slot_free(struct pc_loop *l, struct slot *s);

/* queue.c */
void pc_submit(struct pc_loop *l, struct slot *s);
void pc_submit_forget(struct pc_loop *l, u64 number, u64 times);
bool pc_post(struct pc_loop *l, struct pc_fuse_request request);
fuse_req_t pc_answer_begin(struct pc_loop *l, u64 token, u64 kinds, struct slot *copy, int *error);
int pc_answer_end(struct pc_loop *l, int sent);
bool pc_sender_enter(struct pc_loop *l);
void pc_sender_leave(struct pc_loop *l);
void *pc_clock_main(void *loop);
void pc_requests_end(struct pc_loop *l);

/* turns.c */
bool pc_turn_before(struct pc_loop *l, u32 op, u64 number, u64 offset, u64 size);
bool pc_turn_holds(const struct pc_loop *l, const struct slot *s);
void pc_turn_begin(struct pc_loop *l, struct slot *s);
void pc_turn_early(struct pc_loop *l, u64 token);
void pc_turn_end(struct pc_loop *l, struct slot *s);

/* attributes.c */
void pc_nodes_free(struct pc_loop *l);
void pc_stat_of(const struct pc_attributes *a, struct stat *out);
bool pc_known_attributes(struct pc_loop *l, u64 number, bool old_too, struct stat *out, double *timeout);
void pc_attributes_seen(struct pc_loop *l, const struct pc_attributes *a, u64 tick, i64 since_ns);
u64 pc_change(struct pc_loop *l, struct slot *s, int running);
void pc_node_changed(struct pc_loop *l, u64 number);

#endif
