/*
 * kernel.h - the kernel's end of a FUSE connection, played by a test: requests are sent over a socket pair, whose other
 * end libfuse uses as /dev/fuse, and the test waits for each answer by its number.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include <linux/fuse.h>
#include <poll.h>
#include <sys/socket.h>

#include "../rig.h"
#include "loop.h"

enum { KERNEL_ANSWERS = 4096, KERNEL_WAIT_MS = 60000, KERNEL_BYTES = 64 << 10 };

struct answer {
	u64 unique;
	int error; /* positive errno, 0 */
	u32 len;
	u8 bytes[8192];
};

struct kernel {
	int fd;
	struct pc_loop *loop;
	_Atomic u64 unique;
	pthread_mutex_t lock; /* guards the fields below */
	pthread_cond_t came;
	struct answer *answers[KERNEL_ANSWERS];
	u64 nr_answers, nr_notices;
	pthread_t thread;
};

/* One answer, or a notice. */
static void kernel_take(struct kernel *k, const u8 *bytes, size_t n)
{
	const struct fuse_out_header *out = (const void *)bytes;
	CHECK(n >= sizeof(*out) && out->len == n);
	pthread_mutex_lock(&k->lock);
	if (out->unique == 0) {
		k->nr_notices++;
	} else {
		struct answer *a = calloc(1, sizeof(*a)), **at = &k->answers[out->unique % KERNEL_ANSWERS];
		a->unique = out->unique;
		a->error = -out->error;
		a->len = (u32)(n - sizeof(*out));
		memcpy(a->bytes, bytes + sizeof(*out), pc_min(a->len, sizeof(a->bytes)));
		CHECK(!*at); /* a request is answered once */
		*at = a;
		k->nr_answers++;
	}
	pthread_cond_broadcast(&k->came);
	pthread_mutex_unlock(&k->lock);
}

static void *kernel_main(void *kernel)
{
	struct kernel *k = kernel;
	static _Thread_local u8 bytes[KERNEL_BYTES];
	for (;;) {
		ssize_t n = recv(k->fd, bytes, sizeof(bytes), 0);
		if (n <= 0)
			return NULL;
		kernel_take(k, bytes, (size_t)n);
	}
}

/* Send a request. @pid: its nominal process. Return: its number. */
static MAYBE u64 send_as(struct kernel *k, u32 pid, u32 opcode, u64 node, const void *body, size_t len,
			 const void *more, size_t more_len)
{
	u64 unique = 2 * (1 + atomic_fetch_add(&k->unique, 1));
	struct fuse_in_header in = {.len = (u32)(sizeof(in) + len + more_len),
				    .opcode = opcode,
				    .unique = unique,
				    .nodeid = node,
				    .pid = pid};
	struct iovec parts[] = {{&in, sizeof(in)}, {(void *)(uintptr_t)body, len}, {(void *)(uintptr_t)more, more_len}};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 3};
	EQUAL(sendmsg(k->fd, &message, MSG_NOSIGNAL), in.len);
	return unique;
}

static MAYBE u64 send_to(struct kernel *k, u32 opcode, u64 node, const void *body, size_t len)
{
	return send_as(k, (u32)getpid(), opcode, node, body, len, NULL, 0);
}

/* The answer to a request, which must come. */
static MAYBE struct answer answer_to(struct kernel *k, u64 unique)
{
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += KERNEL_WAIT_MS / 1000;
	struct answer **at = &k->answers[unique % KERNEL_ANSWERS], a;
	pthread_mutex_lock(&k->lock);
	while (!*at)
		EQUAL(pthread_cond_timedwait(&k->came, &k->lock, &until), 0);
	a = **at;
	free(*at);
	*at = NULL;
	pthread_mutex_unlock(&k->lock);
	EQUAL(a.unique, unique);
	return a;
}

static MAYBE bool has_answer(struct kernel *k, u64 unique)
{
	pthread_mutex_lock(&k->lock);
	bool has = k->answers[unique % KERNEL_ANSWERS] != NULL;
	pthread_mutex_unlock(&k->lock);
	return has;
}

/* Send a request with one struct. Return: its number. */
#define SEND(k, opcode, node, type, ...) send_to(k, opcode, node, &(struct type){__VA_ARGS__}, sizeof(struct type))

#define send_getattr(k, node)          SEND(k, FUSE_GETATTR, node, fuse_getattr_in, 0)
#define send_open(k, node)             SEND(k, FUSE_OPEN, node, fuse_open_in, .flags = 2)
#define send_read(k, node, h, at, len) SEND(k, FUSE_READ, node, fuse_read_in, .fh = h, .offset = at, .size = len)
#define send_release(k, node, h)       SEND(k, FUSE_RELEASE, node, fuse_release_in, .fh = h)
#define send_fsync(k, node, h)         SEND(k, FUSE_FSYNC, node, fuse_fsync_in, .fh = h)
#define send_forget(k, node, times)    SEND(k, FUSE_FORGET, node, fuse_forget_in, .nlookup = times)
#define send_interrupt(k, of)          SEND(k, FUSE_INTERRUPT, 0, fuse_interrupt_in, .unique = of)

/* A struct that is the answer. */
#define OUT(answer, type) ((const struct type *)(const void *)(answer).bytes)

static MAYBE u64 send_lookup(struct kernel *k, u64 parent, const char *name)
{
	return send_to(k, FUSE_LOOKUP, parent, name, strlen(name) + 1);
}

static MAYBE u64 send_write(struct kernel *k, u64 node, u64 fh, u64 offset, const void *data, u32 size)
{
	struct fuse_write_in in = {.fh = fh, .offset = offset, .size = size};
	return send_as(k, (u32)getpid(), FUSE_WRITE, node, &in, sizeof(in), data, size);
}

static MAYBE u64 fh_of(const struct answer *a)
{
	EQUAL(a->error, 0);
	return OUT(*a, fuse_open_out)->fh;
}

static MAYBE void kernel_open(struct kernel *k, struct pc_loop_options options)
{
	int ends[2], room = 1 << 20;
	char path[32];
	memset(k, 0, sizeof(*k));
	pthread_mutex_init(&k->lock, NULL);
	pthread_cond_init(&k->came, NULL);
	EQUAL(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
	for (int e = 0; e < 2; e++)
		setsockopt(ends[e], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	k->fd = ends[0];
	k->loop = pc_loop_new(pc_hit_calls(), &options, "");
	CHECK(k->loop);
	snprintf(path, sizeof(path), "/dev/fd/%d", ends[1]);
	EQUAL(pc_loop_mount(k->loop, path), 0);
	EQUAL(pc_loop_start(k->loop), 0);
	EQUAL(pthread_create(&k->thread, NULL, kernel_main, k), 0);
	struct fuse_init_in in = {.major = FUSE_KERNEL_VERSION, .minor = 31, .flags = FUSE_DO_READDIRPLUS};
	EQUAL(answer_to(k, send_to(k, FUSE_INIT, 0, &in, sizeof(in))).error, 0);
}

/* Close the kernel's end after the loop has ended. */
static MAYBE void kernel_close(struct kernel *k)
{
	pc_loop_stop(k->loop, true);
	shutdown(k->fd, SHUT_RDWR);
	EQUAL(pthread_join(k->thread, NULL), 0);
	close(k->fd);
	for (int a = 0; a < KERNEL_ANSWERS; a++)
		free(k->answers[a]);
	CHECK(pc_loop_free(k->loop));
}

/* ---------------------------------------------------------------- an open file of a cache */

enum { SIZE = 64 << 10 };

static MAYBE _Atomic u8 closed;
static MAYBE struct pc_readahead window;
static MAYBE struct pc_opened *opened;
static MAYBE struct pc_hit *hit;

/* All of it is cached, and hits are answered in the loop. */
static MAYBE void open_hits(void)
{
	open_one(1 << 20, PAGE, 0, 2 * SIZE, limits_wide());
	put(0, SIZE, 7);
	atomic_store(&closed, 0);
	EQUAL(pc_hit_open(file->inode, (uintptr_t)&closed, (uintptr_t)&window, true, true, &hit), 0);
}

static MAYBE struct pc_opened *opened_by(struct kernel *k, u64 node, u64 fh)
{
	opened = pc_opened_new(fh);
	pc_opened_begin(k->loop, opened, node, (uintptr_t)hit);
	return opened;
}

static MAYBE void close_hits(struct kernel *k)
{
	pc_opened_end(k->loop, opened);
	pc_opened_free(opened);
	pc_hit_close(hit);
}

#endif
