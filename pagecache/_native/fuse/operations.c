/*
 * operations.c - libfuse's callbacks: answer a request here, or pass it to the handlers.
 *
 *   read, write       of an open file with a hit: cached bytes, free room for dirty bytes
 *   getattr           valid attributes of an open file (attributes.c)
 *
 * Everything else goes to a handler. After a worker has answered a request it touches neither the request nor its file:
 * the kernel may already send the request that ends them.
 */
#include <stdlib.h>
#include <string.h>

#include "state.h"

static struct pc_loop *loop_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

static struct pc_opened *opened_of(const struct fuse_file_info *info)
{
	return info ? (struct pc_opened *)(uintptr_t)info->fh : NULL;
}

/* Pass on a request to the handlers. @changes: CHANGES_*. */
static void pass_on(fuse_req_t req, struct pc_fuse_request a, u8 changes)
{
	struct pc_loop *l = loop_of(req);
	struct slot *s = pc_slot_new(l, req, a);
	if (!s)
		return;
	s->changes = changes;
	pc_submit(l, s);
}

/* ---------------------------------------------------------------- bytes */

static void do_read(fuse_req_t req, fuse_ino_t number, size_t size, off_t offset, struct fuse_file_info *info)
{
	struct pc_loop *l = loop_of(req);
	struct pc_opened *o = opened_of(info);
	struct worker *w = pc_worker;
	if (!atomic_load_explicit(&o->marks[PC_WAS_READ], memory_order_relaxed))
		atomic_store_explicit(&o->marks[PC_WAS_READ], 1, memory_order_relaxed);
	if (o->hit && size <= PC_REPLY_MAX && !pc_turn_before(l, PC_FUSE_READ, number, (u64)offset, size)) {
		u64 marker;
		i64 n = l->calls->read(o->hit, (u64)offset, w->reply, size, &marker);
		if (marker != UINT64_MAX)
			pc_post(l, REQUEST(PC_FUSE_READ_AHEAD, number, o->fh, .offset = marker));
		if (n >= 0) {
			count(&l->counts.reads);
			fuse_reply_buf(req, w->reply, (size_t)n);
			return;
		}
	}
	pass_on(req, REQUEST(PC_FUSE_READ, number, o->fh, .offset = (u64)offset, .size = size), 0);
}

static void do_write(fuse_req_t req, fuse_ino_t number, const char *data, size_t size, off_t offset,
		     struct fuse_file_info *info)
{
	struct pc_loop *l = loop_of(req);
	struct pc_opened *o = opened_of(info);
	if (o->hit && !atomic_load_explicit(&o->marks[PC_REPORTED], memory_order_relaxed) &&
	    !pc_turn_before(l, PC_FUSE_WRITE, number, (u64)offset, size)) {
		pc_opened_set_mark(o, PC_WRITTEN_NS, now_ns(CLOCK_REALTIME));
		pc_opened_set_mark(o, PC_WROTE, 1);
		if (l->calls->write(o->hit, (u64)offset, data, size) == (i64)size) {
			pc_opened_set_mark(o, PC_WROTE, 1); /* a concurrent flush may have missed it */
			count(&l->counts.writes);
			fuse_reply_write(req, size);
			return;
		}
	}
	pass_on(req,
		REQUEST(PC_FUSE_WRITE, number, o->fh, .offset = (u64)offset, .size = size, .flags = info->writepage,
			.data = data),
		0);
}

/* ---------------------------------------------------------------- nodes and names */

static void do_getattr(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *info)
{
	struct pc_loop *l = loop_of(req);
	struct stat known;
	double timeout;
	bool silent = now_ns(CLOCK_MONOTONIC) < l->silent_until_ns; /* old ones do, so that cached reads go on */
	if (pc_known_attributes(l, number, silent, &known, &timeout)) {
		count(&l->counts.getattrs);
		fuse_reply_attr(req, &known, timeout);
		return;
	}
	bool open = pc_known_attributes(l, number, true, NULL, NULL);
	struct slot *s = pc_slot_new(l, req, REQUEST(PC_FUSE_GETATTR, number, PC_NO_FH));
	if (!s)
		return;
	s->known = open;
	i64 known_due_ns = s->request.arrived_ns + l->options.known_timeout_ns;
	if (open && known_due_ns < s->due_ns)
		s->due_ns = known_due_ns;
	pc_submit(l, s);
}

/* Fields to be set have the same bits as libfuse's. */
_Static_assert(PC_SET_MODE == FUSE_SET_ATTR_MODE && PC_SET_UID == FUSE_SET_ATTR_UID &&
		       PC_SET_GID == FUSE_SET_ATTR_GID && PC_SET_SIZE == FUSE_SET_ATTR_SIZE &&
		       PC_SET_ATIME == FUSE_SET_ATTR_ATIME && PC_SET_MTIME == FUSE_SET_ATTR_MTIME,
	       "fields of SETATTR");

static void do_setattr(fuse_req_t req, fuse_ino_t number, struct stat *attr, int set, struct fuse_file_info *info)
{
	struct pc_loop *l = loop_of(req);
	struct slot *s = pc_slot_new(l, req, REQUEST(PC_FUSE_SETATTR, number, info ? opened_of(info)->fh : PC_NO_FH));
	if (!s)
		return;
	struct pc_fuse_request *a = &s->request;
	set |= set & FUSE_SET_ATTR_ATIME_NOW ? FUSE_SET_ATTR_ATIME : 0;
	set |= set & FUSE_SET_ATTR_MTIME_NOW ? FUSE_SET_ATTR_MTIME : 0;
	a->fields = (u32)set & (2 * PC_SET_MTIME - 1);
	a->mode = attr->st_mode & 07777;
	if (set & FUSE_SET_ATTR_UID)
		a->uid = attr->st_uid;
	if (set & FUSE_SET_ATTR_GID)
		a->gid = attr->st_gid;
	a->size = (u64)attr->st_size;
	a->atime_ns = set & FUSE_SET_ATTR_ATIME_NOW ? now_ns(CLOCK_REALTIME) : ns_of(attr->st_atim);
	a->mtime_ns = set & FUSE_SET_ATTR_MTIME_NOW ? now_ns(CLOCK_REALTIME) : ns_of(attr->st_mtim);
	s->changes = CHANGES_NODE;
	pc_submit(l, s);
}

/* libfuse calls this for each node of a batch. */
static void do_forget(fuse_req_t req, fuse_ino_t number, u64 times)
{
	struct pc_loop *l = loop_of(req);
	count(&l->counts.forgets);
	pc_submit_forget(l, number, times);
	fuse_reply_none(req);
}

static void do_getxattr(fuse_req_t req, fuse_ino_t number, const char *name, size_t size)
{
	if (loop_of(req)->options.xattrs && !strcmp(name, "security.capability")) {
		fuse_reply_err(req, ENODATA);
		return;
	}
	pass_on(req, REQUEST(PC_FUSE_GETXATTR, number, PC_NO_FH, .size = size, .name = name), 0);
}

/* ---------------------------------------------------------------- requests that are passed on as they are */

/* Name, parameters behind the request; then of the handlers' request: its kind, node, open file, what it changes, and
 * other fields. */
/* clang-format off */
#define PASSED(X) \
	X(lseek, (fuse_ino_t number, off_t offset, int whence, struct fuse_file_info *info), \
	  LSEEK, number, opened_of(info)->fh, 0, .offset = (u64)offset, .flags = (u32)whence) \
	X(open, (fuse_ino_t number, struct fuse_file_info *info), \
	  OPEN, number, PC_NO_FH, info->flags & O_TRUNC ? CHANGES_NODE : 0, .flags = (u32)info->flags) \
	X(flush, (fuse_ino_t number, struct fuse_file_info *info), FLUSH, number, opened_of(info)->fh, CHANGES_NODE) \
	X(fsync, (fuse_ino_t number, int datasync, struct fuse_file_info *info), \
	  FSYNC, number, opened_of(info)->fh, CHANGES_NODE, .flags = datasync != 0) \
	X(release, (fuse_ino_t number, struct fuse_file_info *info), \
	  RELEASE, number, opened_of(info)->fh, CHANGES_NODE) \
	X(create, (fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *info), \
	  CREATE, parent, PC_NO_FH, info->flags & O_TRUNC ? CHANGES_ALL : 0, .mode = mode, \
	  .flags = (u32)info->flags, .name = name) \
	X(lookup, (fuse_ino_t parent, const char *name), LOOKUP, parent, PC_NO_FH, 0, .name = name) \
	X(readlink, (fuse_ino_t number), READLINK, number, PC_NO_FH, 0) \
	X(mknod, (fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev), \
	  MKNOD, parent, PC_NO_FH, 0, .mode = mode, .rdev = rdev, .name = name) \
	X(mkdir, (fuse_ino_t parent, const char *name, mode_t mode), \
	  MKDIR, parent, PC_NO_FH, 0, .mode = mode, .name = name) \
	X(unlink, (fuse_ino_t parent, const char *name), UNLINK, parent, PC_NO_FH, CHANGES_ALL, .name = name) \
	X(rmdir, (fuse_ino_t parent, const char *name), RMDIR, parent, PC_NO_FH, CHANGES_ALL, .name = name) \
	X(symlink, (const char *target, fuse_ino_t parent, const char *name), \
	  SYMLINK, parent, PC_NO_FH, 0, .name = name, .name2 = target) \
	X(rename, (fuse_ino_t parent, const char *name, fuse_ino_t parent2, const char *name2, unsigned int flags), \
	  RENAME, parent, PC_NO_FH, CHANGES_ALL, .number2 = parent2, .flags = flags, .name = name, .name2 = name2) \
	X(link, (fuse_ino_t number, fuse_ino_t parent, const char *name), \
	  LINK, number, PC_NO_FH, CHANGES_ALL, .number2 = parent, .name2 = name) \
	X(opendir, (fuse_ino_t number, struct fuse_file_info *info), OPENDIR, number, PC_NO_FH, 0) \
	X(readdir, (fuse_ino_t number, size_t size, off_t offset, struct fuse_file_info *info), \
	  READDIR, number, info->fh, 0, .offset = (u64)offset, .size = size) \
	X(readdirplus, (fuse_ino_t number, size_t size, off_t offset, struct fuse_file_info *info), \
	  READDIRPLUS, number, info->fh, 0, .offset = (u64)offset, .size = size) \
	X(releasedir, (fuse_ino_t number, struct fuse_file_info *info), RELEASEDIR, number, info->fh, 0) \
	X(fsyncdir, (fuse_ino_t number, int datasync, struct fuse_file_info *info), \
	  FSYNCDIR, number, info->fh, 0, .flags = datasync != 0) \
	X(statfs, (fuse_ino_t number), STATFS, number, PC_NO_FH, 0) \
	X(setxattr, (fuse_ino_t number, const char *name, const char *value, size_t size, int flags), \
	  SETXATTR, number, PC_NO_FH, CHANGES_NODE, .size = size, .flags = (u32)flags, .name = name, .data = value) \
	X(listxattr, (fuse_ino_t number, size_t size), LISTXATTR, number, PC_NO_FH, 0, .size = size) \
	X(removexattr, (fuse_ino_t number, const char *name), \
	  REMOVEXATTR, number, PC_NO_FH, CHANGES_NODE, .name = name)
#define UNPACK(...) __VA_ARGS__
#define CALLBACK(name, parameters, op, number, fh, changes, ...)                                                       \
	static void do_##name(fuse_req_t req, UNPACK parameters)                                                       \
	{                                                                                                              \
		pass_on(req, REQUEST(PC_FUSE_##op, number, fh, ##__VA_ARGS__), changes);                               \
	}
#define ENTRY(name, ...) .name = do_##name,

PASSED(CALLBACK)

const struct fuse_lowlevel_ops pc_operations = {
	.init = pc_session_begun,
	.forget = do_forget,
	.getattr = do_getattr,
	.setattr = do_setattr,
	.read = do_read,
	.write = do_write,
	.getxattr = do_getxattr,
	PASSED(ENTRY)
};
