/*
 * loop.h - a FUSE loop in C: cached data is answered here, handlers in Python answer everything else.
 *
 *   kernel ──> workers (C) ── hit ──────────────────────────> reply          read, write, getattr
 *                  └── miss ──> queue ──> handlers (Python) ─> reply          everything else
 *
 * Workers are threads without a Python thread state. They read requests with libfuse and wait only for the kernel.
 * Handlers are Python threads: pc_loop_next() returns a request, a pc_reply_*() answers it, and pc_loop_done() ends the
 * call, answered or not. Each request is answered exactly once: by a handler, at its deadline, at the end of the loop,
 * or with EINTR when its program is being killed. A later answer gets -ENOENT, and its handler undoes its work.
 *
 * Answers are validated: an invalid token, a wrong kind of answer or an answer that is too long is refused with
 * -EPROTO, and the program gets EIO.
 *
 * This extension is optional: it is compiled if libfuse 3 is installed. It reaches CORE through the addresses of
 * pc_hit_calls() (pagecache.h), since it cannot call functions of another extension by name. The cffi builder reads the
 * part between the markers. Times are nanoseconds, of the monotonic clock except for times of files; errors are
 * negative errno values.
 */
#ifndef PC_FUSE_LOOP_H
#define PC_FUSE_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* cdef-begin */

struct pc_loop;
struct pc_opened;

/* Requests to handlers. */
enum {
	PC_FUSE_LOOKUP = 1,
	PC_FUSE_GETATTR,
	PC_FUSE_SETATTR,
	PC_FUSE_READLINK,
	PC_FUSE_MKNOD,
	PC_FUSE_MKDIR,
	PC_FUSE_UNLINK,
	PC_FUSE_RMDIR,
	PC_FUSE_SYMLINK,
	PC_FUSE_RENAME,
	PC_FUSE_LINK,
	PC_FUSE_OPEN,
	PC_FUSE_CREATE,
	PC_FUSE_READ,
	PC_FUSE_WRITE, /* `flags`: 1: pages of a mapping, which the kernel sends once */
	PC_FUSE_FLUSH,
	PC_FUSE_FSYNC,
	PC_FUSE_RELEASE,
	PC_FUSE_OPENDIR,
	PC_FUSE_READDIR,
	PC_FUSE_READDIRPLUS,
	PC_FUSE_FSYNCDIR,
	PC_FUSE_RELEASEDIR,
	PC_FUSE_STATFS,
	PC_FUSE_SETXATTR,
	PC_FUSE_GETXATTR,
	PC_FUSE_LISTXATTR,
	PC_FUSE_REMOVEXATTR,
	PC_FUSE_LSEEK, /* `flags`: SEEK_DATA or SEEK_HOLE */
	/* sent by the loop itself, without an answer */
	PC_FUSE_FORGET,     /* nodes were forgotten: pc_loop_forgotten() has them */
	PC_FUSE_READ_AHEAD, /* the file `fh` has read the page `offset`, where its next window begins */
	PC_NR_FUSE_REQUESTS
};

/* Fields that PC_FUSE_SETATTR sets. */
enum { PC_SET_MODE = 1, PC_SET_UID = 2, PC_SET_GID = 4, PC_SET_SIZE = 8, PC_SET_ATIME = 16, PC_SET_MTIME = 32 };

/* A request as a handler receives it. Its pointers are valid until the handler's next pc_loop_next(). */
struct pc_fuse_request {
	uint64_t token;
	uint32_t op, flags;
	uint64_t number;  /* the node, or the directory of `name` */
	uint64_t number2; /* RENAME, LINK: the directory of `name2` */
	uint64_t fh;      /* argument of pc_opened_new() or pc_reply_number(); NO_FH: none */
	uint64_t offset, size;
	uint32_t mode, fields, uid, gid; /* uid, gid: to be set, otherwise of the caller */
	uint32_t thread; /* of the caller; 0: it has no number here */
	int64_t atime_ns, mtime_ns;
	uint64_t rdev; /* MKNOD of a device: its number */
	const char *name, *name2; /* end with a zero; name2: second name, or target of a symbolic link */
	const char *data;         /* WRITE, SETXATTR: `size` bytes */
	uint64_t tick; /* attributes.c */
	int64_t arrived_ns;
	uint32_t idle; /* handlers that wait for a request */
	void *memory;  /* owned by the loop */
};

struct pc_attributes {
	uint64_t number;
	uint32_t mode, nlink, uid, gid;
	uint64_t size;
	int64_t atime_ns, mtime_ns, ctime_ns;
	uint64_t rdev;      /* number of a device */
	uint64_t allocated; /* bytes allocated; PC_NOT_KNOWN: as many as `size` */
	uint64_t taken;     /* pc_hit_calls.taken, read before `allocated` was requested */
};

/* Marks of an open file, as in Python's OpenFile; native/loop.py has their order. */
enum pc_opened_mark {
	PC_WRITTEN_NS,
	PC_WROTE,
	PC_WAS_READ, /* the kernel may have pages of it, and mappings may have changed them */
	PC_REPORTED, /* a failure was reported, maybe not the last; Python does the next write */
	PC_NR_MARKS
};

/* A node that the kernel has forgotten, and its number of forgets. */
struct pc_forgotten {
	uint64_t number, times;
};

struct pc_loop_options {
	int64_t entry_ns, attr_ns; /* how long the kernel may cache names and attributes */
	int64_t timeout_ns;        /* a request that waits longer for a handler gets EIO; 0: it waits */
	int64_t known_timeout_ns; /* after this time getattr of an open file returns the last known attributes */
	int64_t silence_ns; /* and for this long does not request them again */
	uint32_t workers;
	uint8_t direct_io, keep_pages;
	uint8_t xattrs; /* supported, except security.capability, which the kernel requests before each write */
	uint8_t acls;   /* the kernel checks POSIX ACLs, which it reads as extended attributes */
};

/* Requests so far. */
struct pc_loop_counts {
	uint64_t reads, writes, getattrs; /* answered without a handler */
	uint64_t submitted, late, refused, expired, interrupted;
	uint64_t forgets; /* forgets that the kernel sent */
	uint64_t nodes; /* open files, and files that are being changed, now */
};

/* ---- loop: created, mounted, started, stopped, freed by one thread */
struct pc_loop *pc_loop_new(const void *hit_calls, const struct pc_loop_options *options, const char *words);
int pc_loop_mount(struct pc_loop *l, const char *path);
int pc_loop_start(struct pc_loop *l);
int pc_loop_ended_fd(struct pc_loop *l);
bool pc_loop_drain(struct pc_loop *l, int64_t timeout_ns, bool only_saving);
void pc_loop_stop(struct pc_loop *l, bool unmount);
bool pc_loop_free(struct pc_loop *l);
void pc_loop_counts(struct pc_loop *l, struct pc_loop_counts *out);

/* ---- handlers */
bool pc_loop_enter(struct pc_loop *l);
bool pc_loop_next(struct pc_loop *l, struct pc_fuse_request *request);
bool pc_loop_done(struct pc_loop *l, uint64_t token);
uint64_t pc_loop_forgotten(struct pc_loop *l, struct pc_forgotten *out, uint64_t n);
void pc_loop_leave(struct pc_loop *l, struct pc_fuse_request *request);

int pc_reply_error(struct pc_loop *l, uint64_t token, int error);
int pc_reply_attributes(struct pc_loop *l, uint64_t token, const struct pc_attributes *a);
int pc_reply_open(struct pc_loop *l, uint64_t token, const struct pc_attributes *a, struct pc_opened *o, bool kept);
int pc_reply_data(struct pc_loop *l, uint64_t token, const char *data, uint64_t len);
int pc_reply_number(struct pc_loop *l, uint64_t token, uint64_t number);
int pc_reply_statfs(struct pc_loop *l, uint64_t token, const uint64_t *fields);
uint64_t pc_dirent(struct pc_loop *l, char *to, uint64_t room, const char *name, const struct pc_attributes *a,
		   bool plus, bool certain, uint64_t next);

/* ---- open files */
struct pc_opened *pc_opened_new(uint64_t fh);
void pc_opened_begin(struct pc_loop *l, struct pc_opened *o, uint64_t number, uintptr_t hit);
void pc_attributes_known(struct pc_loop *l, const struct pc_attributes *a);
void pc_opened_end(struct pc_loop *l, struct pc_opened *o);
void pc_opened_free(struct pc_opened *o);
int64_t pc_opened_mark(struct pc_opened *o, enum pc_opened_mark mark);
int64_t pc_opened_set_mark(struct pc_opened *o, enum pc_opened_mark mark, int64_t value);
void pc_opened_clear_written(struct pc_opened *o, int64_t written_ns);

/* ---- the kernel's caches */
int pc_notify_inode(struct pc_loop *l, uint64_t number, int64_t offset, int64_t len);
int pc_notify_entry(struct pc_loop *l, uint64_t parent, const char *name);
int pc_notify_message(struct pc_loop *l, const char *message, uint64_t len);

/* cdef-end */

#define PC_NO_FH     UINT64_MAX
#define PC_NOT_KNOWN UINT64_MAX

#endif
