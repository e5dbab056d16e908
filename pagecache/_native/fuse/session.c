/*
 * session.c - the life of a loop: session, workers, and the order of their end.
 *
 *   new ──> mounted ──> started: one worker ──> first request answered: all workers ──> stopped ──> freed
 *
 * A worker waits only in read(2), for the kernel, and can be cancelled only there: nothing else could wake it while the
 * connection stands, and it holds no lock there. Everything else that a worker does ends by itself.
 *
 * The end: workers end first, so that no hit runs and no new request arrives. Then every pending request is answered.
 * Then the session is freed, once no answer is being sent. Handlers that hang keep the loop's memory; their late
 * answers get -ENOENT.
 */
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "state.h"

_Thread_local struct worker *pc_worker;

enum { SENDERS_WAIT_S = 5 };

static void init_locks(struct pc_loop *l)
{
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_mutex_init(&l->lock, NULL);
	pthread_mutex_init(&l->nodes_lock, NULL);
	pthread_cond_init(&l->queued, NULL);
	pthread_cond_init(&l->clock, &monotonic);
	pthread_cond_init(&l->sent, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

/* Everything but the session. */
static void release(struct pc_loop *l)
{
	for (u32 k = 0; k < l->nr_slots; k++) {
		free(l->slots[k]->request.memory);
		free(l->slots[k]);
	}
	free(l->slots);
	free(l->forgotten);
	for (u32 k = 0; k < PC_WORKERS_MAX; k++) {
		free(l->workers[k].buf.mem);
		free(l->workers[k].reply);
	}
	pc_nodes_free(l);
	if (l->ended_fd >= 0)
		close(l->ended_fd);
	free(l);
}

/* Create a loop that is not mounted. @hit_calls: of CORE. @words: options for libfuse and the kernel, as after -o.
 * Return: NULL: errno is EPROTO: CORE was built for another loop; EINVAL: libfuse has printed the reason on stderr; or
 * that of a missing resource. */
struct pc_loop *pc_loop_new(const void *hit_calls, const struct pc_loop_options *options, const char *words)
{
	const struct pc_hit_calls *calls = hit_calls;
	if (calls->size != sizeof(*calls)) {
		errno = EPROTO;
		return NULL;
	}
	struct pc_loop *l = calloc(1, sizeof(*l));
	if (!l)
		return NULL;
	l->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->ended_fd < 0) {
		free(l);
		return NULL;
	}
	init_locks(l);
	l->calls = calls;
	l->options = *options;
	l->due_ns = INT64_MAX;
	l->last = &l->first;
	l->nr_workers = options->workers < 1                ? 1
			: options->workers > PC_WORKERS_MAX ? PC_WORKERS_MAX
							    : options->workers;
	if (!options->direct_io)
		l->nr_workers = 1; /* turns.c */
	char *argv[] = {"pagecache", "-o", (char *)(uintptr_t)words};
	struct fuse_args args = FUSE_ARGS_INIT(words && *words ? 3 : 1, argv);
	l->session = fuse_session_new(&args, &pc_operations, sizeof(pc_operations), l);
	fuse_opt_free_args(&args);
	if (!l->session) {
		release(l);
		errno = EINVAL;
		return NULL;
	}
	return l;
}

/* Two flags that libfuse 3.13 to 3.16 leave out of the reply to INIT. They let the reply pass through this code, which
 * adds those that the kernel offers. Newer ones send them if they are wanted, older ones have neither.
 *
 *   PARALLEL_DIROPS        the kernel looks up and lists a directory while another such request of it waits, perhaps for
 *                          the store; without it these wait in the kernel, where no signal reaches them
 *   DIRECT_IO_ALLOW_MMAP   Linux 6.6 and newer allow shared mappings of files with direct I/O; without it mmap(2) fails
 *                          with ENODEV, as on older kernels
 */
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 13) && !defined(FUSE_CAP_DIRECT_IO_ALLOW_MMAP)

/* Constants of the protocol, which older <linux/fuse.h> lack. */
enum { OP_INIT = 26, PARALLEL_DIROPS = 1 << 18, INIT_EXT = 1 << 30, DIRECT_IO_ALLOW_MMAP = 1 << (36 - 32) };
struct init_request {
	u32 len, opcode;
	u64 unique, node;
	u32 uid, gid, pid, padding;
	u32 major, minor, max_readahead, flags, flags2;
};
struct reply_header {
	u32 len;
	i32 error;
	u64 unique;
};
struct init_reply {
	u32 major, minor, max_readahead, flags;
	u16 max_background, congestion_threshold;
	u32 max_write, time_gran;
	u16 max_pages, map_alignment;
	u32 flags2, unused[7];
};

static ssize_t request_read(int fd, void *buffer, size_t size, void *loop)
{
	struct pc_loop *l = loop;
	const struct init_request *init = buffer;
	ssize_t n = read(fd, buffer, size);
	if (!l->initialized && n >= (ssize_t)offsetof(struct init_request, flags2) && init->opcode == OP_INIT) {
		l->init_flags = init->flags & PARALLEL_DIROPS;
		if (l->options.direct_io && init->flags & INIT_EXT && n >= (ssize_t)sizeof(*init) &&
		    init->flags2 & DIRECT_IO_ALLOW_MMAP) {
			l->init_flags |= INIT_EXT;
			l->init_flags2 = DIRECT_IO_ALLOW_MMAP;
		}
		l->init_unique = init->unique;
	}
	return n;
}

static ssize_t reply_write(int fd, struct iovec *parts, int count, void *loop)
{
	struct pc_loop *l = loop;
	const struct reply_header *header = parts[0].iov_base;
	if (!l->init_unique || header->unique != l->init_unique)
		return writev(fd, parts, count);
	l->init_unique = 0; /* the first worker is alone until this is sent */
	struct init_reply reply;
	if (header->error || count != 2 || parts[1].iov_len != sizeof(reply))
		return writev(fd, parts, count);
	memcpy(&reply, parts[1].iov_base, sizeof(reply));
	reply.flags |= l->init_flags;
	reply.flags2 |= l->init_flags2;
	struct iovec with[] = {parts[0], {&reply, sizeof(reply)}};
	return writev(fd, with, 2);
}

static int pass_replies(struct pc_loop *l)
{
	static const struct fuse_custom_io io = {.read = request_read, .writev = reply_write};
	return fuse_session_custom_io(l->session, &io, fuse_session_fd(l->session));
}
#else
static int pass_replies(struct pc_loop *l)
{
	return 0;
}
#endif

/* Return: 0; -EINVAL: libfuse has printed the reason on stderr. */
int pc_loop_mount(struct pc_loop *l, const char *path)
{
	int err = fuse_session_mount(l->session, path);
	l->mounted = !err;
	if (!err)
		err = pass_replies(l);
	return err ? -EINVAL : 0;
}

/* libfuse calls this for the first request. */
void pc_session_begun(void *loop, struct fuse_conn_info *connection)
{
	struct pc_loop *l = loop;
	if (connection->capable & FUSE_CAP_READDIRPLUS) {
		connection->want |= FUSE_CAP_READDIRPLUS;
		connection->want &= ~(u32)FUSE_CAP_READDIRPLUS_AUTO;
	}
	/* Lookups of known names come in parallel in any case. */
	connection->want |= connection->capable & FUSE_CAP_PARALLEL_DIROPS;
	/* Written data is copied straight into a folio; read data comes from memory that may change. */
	connection->want &= ~(u32)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
	connection->want &= ~(u32)FUSE_CAP_WRITEBACK_CACHE; /* decision 135 */
	connection->time_gran = 1;
	/* Reads of pages and releases are in the background for the kernel. By default it sends 12 at a time: those that wait
	 * for the store would hold up reads of cached bytes, and an unmount drops releases that were not sent. A quarter of
	 * the handlers' threads (THREADS in fuse/loop.py) is left to other calls. */
	if (!connection->max_background) /* an option of libfuse; the threshold of congestion follows */
		connection->max_background = 48;
	if (l->options.acls)
		connection->want |= connection->capable & FUSE_CAP_POSIX_ACL;
#ifdef FUSE_CAP_DIRECT_IO_ALLOW_MMAP
	if (l->options.direct_io)
		connection->want |= connection->capable & FUSE_CAP_DIRECT_IO_ALLOW_MMAP;
#endif
	pthread_mutex_lock(&l->lock);
	l->initialized = true;
	pthread_mutex_unlock(&l->lock);
}

/* Start a thread that blocks all signals, since Python handles signals in its main thread. */
static int thread_start(pthread_t *thread, void *(*run)(void *), void *argument)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int err = pthread_create(thread, NULL, run, argument);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -err;
}

static void *worker_main(void *argument);

static int worker_start(struct pc_loop *l, u32 k)
{
	struct worker *w = &l->workers[k];
	w->loop = l;
	if (!w->reply && !(w->reply = malloc(PC_REPLY_MAX)))
		return -ENOMEM;
	return thread_start(&w->thread, worker_main, w);
}

/* Start the other workers, once the first one has agreed on sizes with the kernel. Without memory there are fewer. */
static void others_start(struct pc_loop *l)
{
	u32 k = 1;
	while (k < l->nr_workers && !worker_start(l, k))
		k++;
	l->nr_workers = k;
}

static void *worker_main(void *argument)
{
	struct worker *w = argument;
	struct pc_loop *l = w->loop;
	bool first = w == l->workers, alone = first;
	int unused;
	pc_worker = w;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &unused);
	while (!fuse_session_exited(l->session) && !l->stopped) {
		pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &unused);
		int n = fuse_session_receive_buf(l->session, &w->buf);
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &unused);
		if (n == -EINTR)
			continue;
		if (n <= 0)
			break;
		fuse_session_process_buf(l->session, &w->buf);
		if (alone && l->initialized) {
			alone = false;
			others_start(l);
		}
	}
	if (alone)
		l->nr_workers = 1;
	u64 one = 1;
	ssize_t written = write(l->ended_fd, &one, sizeof(one));
	(void)written; /* fails only if it is readable already */
	return NULL;
}

/* Serve. Return: 0, negative errno. */
int pc_loop_start(struct pc_loop *l)
{
	int err = thread_start(&l->clock_thread, pc_clock_main, l);
	if (err)
		return err;
	l->started = 1;
	err = worker_start(l, 0);
	l->serving = !err;
	return err;
}

/* Readable once the kernel sends no more requests: after an unmount, or when the connection was cut. */
int pc_loop_ended_fd(struct pc_loop *l)
{
	return l->ended_fd;
}

static void workers_end(struct pc_loop *l)
{
	u32 k = 0;
	if (!l->serving)
		return;
	do { /* the first one starts the others, and sets their number */
		pthread_cancel(l->workers[k].thread);
		pthread_join(l->workers[k].thread, NULL);
	} while (++k < l->nr_workers);
}

/* Lock held. Return: whether all answers have been sent. */
static bool senders_end(struct pc_loop *l)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += SENDERS_WAIT_S;
	while (l->senders && !pthread_cond_timedwait(&l->sent, &l->lock, &until))
		;
	return !l->senders;
}

/* Stop serving; idempotent. @unmount: also unmount; false if another process owns the mount, or it is gone. Pending
 * requests get EIO, and handlers return once no release is queued. Waits for workers and, for moments, for answers that
 * are being sent. */
void pc_loop_stop(struct pc_loop *l, bool unmount)
{
	if (!l->session)
		return;
	atomic_store(&l->stopped, 1);
	workers_end(l);
	pc_requests_end(l);
	if (l->mounted && unmount)
		fuse_session_unmount(l->session);
	pthread_mutex_lock(&l->lock);
	l->closed = 1;
	pthread_cond_broadcast(&l->queued);
	bool free_session = senders_end(l);
	pthread_cond_broadcast(&l->clock);
	pthread_mutex_unlock(&l->lock);
	if (l->started)
		pthread_join(l->clock_thread, NULL);
	if (free_session)
		fuse_session_destroy(l->session);
	l->session = NULL;
}

/* Free a loop, stopped or not. Return: false: a handler still runs, and the memory stays until the process ends. */
bool pc_loop_free(struct pc_loop *l)
{
	pc_loop_stop(l, true);
	pthread_mutex_lock(&l->lock);
	bool used = l->handlers || l->senders;
	pthread_mutex_unlock(&l->lock);
	if (!used)
		release(l);
	return !used;
}

void pc_loop_counts(struct pc_loop *l, struct pc_loop_counts *out)
{
	u64 *from = (u64 *)&l->counts, *to = (u64 *)out;
	for (size_t k = 0; k < sizeof(*out) / sizeof(u64); k++)
		to[k] = __atomic_load_n(from + k, __ATOMIC_RELAXED);
	pthread_mutex_lock(&l->nodes_lock);
	out->nodes = l->nr_nodes;
	pthread_mutex_unlock(&l->nodes_lock);
}
