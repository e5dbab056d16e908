/*
 * reply.c - handlers' answers, validated before the kernel gets them.
 *
 * A reply that returns a node was counted by the handler before, since the kernel may forget the node at once; the
 * handler undoes the count if the reply was not delivered. Return of all: 0; -ENOENT: the request was already answered, so
 * the handler undoes its work; -EPROTO: the answer does not fit the request, whose program gets EIO when the call ends.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "state.h"

#define BIT(op) (1ull << (op))

enum { ERRNO_MAX = 4095 };

static int refuse(struct pc_loop *l)
{
	count(&l->counts.refused);
	return -EPROTO;
}

int pc_reply_error(struct pc_loop *l, uint64_t token, int error)
{
	struct slot s;
	struct stat known;
	double timeout;
	int err;
	u64 kinds = UINT64_MAX;
	if (error < 0 || error > ERRNO_MAX) {
		count(&l->counts.refused);
		error = EIO;
	}
	if (error == 0) /* success without data */
		kinds = BIT(PC_FUSE_UNLINK) | BIT(PC_FUSE_RMDIR) | BIT(PC_FUSE_RENAME) | BIT(PC_FUSE_FLUSH) |
			BIT(PC_FUSE_FSYNC) | BIT(PC_FUSE_RELEASE) | BIT(PC_FUSE_RELEASEDIR) | BIT(PC_FUSE_FSYNCDIR) |
			BIT(PC_FUSE_SETXATTR) | BIT(PC_FUSE_REMOVEXATTR);
	fuse_req_t req = pc_answer_begin(l, token, kinds, &s, &err);
	if (!req)
		return err;
	if (error == EIO && s.known && pc_known_attributes(l, s.request.number, true, &known, &timeout))
		return pc_answer_end(l, fuse_reply_attr(req, &known, timeout));
	return pc_answer_end(l, fuse_reply_err(req, error));
}

static struct fuse_entry_param entry_to(const struct pc_loop *l, const struct pc_attributes *a)
{
	struct fuse_entry_param entry = {.ino = a->number,
					 .attr_timeout = (double)l->options.attr_ns / 1e9,
					 .entry_timeout = (double)l->options.entry_ns / 1e9};
	pc_stat_of(a, &entry.attr);
	if (S_ISREG(a->mode) && a->nlink > 1) /* an open does not say by which of its names it came */
		entry.entry_timeout = 0;
	return entry;
}

/* Attributes, also of the node that LOOKUP found or another request made. */
int pc_reply_attributes(struct pc_loop *l, uint64_t token, const struct pc_attributes *a)
{
	struct slot s;
	int err;
	u64 entries = BIT(PC_FUSE_LOOKUP) | BIT(PC_FUSE_MKNOD) | BIT(PC_FUSE_MKDIR) | BIT(PC_FUSE_SYMLINK) |
		      BIT(PC_FUSE_LINK);
	if (a->number == 0)
		return refuse(l);
	fuse_req_t req = pc_answer_begin(l, token, entries | BIT(PC_FUSE_GETATTR) | BIT(PC_FUSE_SETATTR), &s, &err);
	if (!req)
		return err;
	pc_attributes_seen(l, a, s.request.tick, s.request.arrived_ns);
	struct fuse_entry_param entry = entry_to(l, a);
	if (entries >> s.request.op & 1)
		return pc_answer_end(l, fuse_reply_entry(req, &entry));
	return pc_answer_end(l, fuse_reply_attr(req, &entry.attr, entry.attr_timeout));
}

/* An open file. @a: of CREATE: the attributes of the new file. @kept: the kernel's pages of it are still valid. */
int pc_reply_open(struct pc_loop *l, uint64_t token, const struct pc_attributes *a, struct pc_opened *o, bool kept)
{
	struct slot s;
	int err;
	struct fuse_file_info info = {.fh = (uintptr_t)o};
	if (a && (a->number == 0 || o->number != a->number))
		return refuse(l);
	fuse_req_t req = pc_answer_begin(l, token, BIT(a ? PC_FUSE_CREATE : PC_FUSE_OPEN), &s, &err);
	if (!req)
		return err;
	info.direct_io = l->options.direct_io;
	info.keep_cache = kept && l->options.keep_pages && !l->options.direct_io;
#ifdef PC_PARALLEL_WRITES
	info.parallel_direct_writes = l->options.direct_io;
#endif
	if (!a)
		return pc_answer_end(l, fuse_reply_open(req, &info));
	pc_attributes_seen(l, a, s.request.tick, s.request.arrived_ns);
	struct fuse_entry_param entry = entry_to(l, a);
	return pc_answer_end(l, fuse_reply_create(req, &entry, &info));
}

/* Refuse an answer longer than requested, or a number that is none; the request stays unanswered. */
static bool too_long(struct pc_loop *l, u64 token, u64 len)
{
	pthread_mutex_lock(&l->lock);
	struct slot *s = pc_slot_submitted(l, token);
	u32 op = s ? s->request.op : 0;
	u64 most = !op                                                 ? UINT64_MAX
		   : op == PC_FUSE_READLINK                            ? 4095
		   : op == PC_FUSE_LSEEK || op == PC_FUSE_OPENDIR      ? INT64_MAX
		   : op == PC_FUSE_GETXATTR || op == PC_FUSE_LISTXATTR ? UINT32_MAX
								       : s->request.size;
	pthread_mutex_unlock(&l->lock);
	return len > most && refuse(l);
}

/* Bytes of a file, a link, entries of a directory, or an extended attribute: only its length, or ERANGE, as the request
 * wants. */
int pc_reply_data(struct pc_loop *l, uint64_t token, const char *data, uint64_t len)
{
	struct slot s;
	int err;
	u64 attributes = BIT(PC_FUSE_GETXATTR) | BIT(PC_FUSE_LISTXATTR);
	u64 bytes = BIT(PC_FUSE_READ) | BIT(PC_FUSE_READDIR) | BIT(PC_FUSE_READDIRPLUS) | BIT(PC_FUSE_READLINK);
	if (too_long(l, token, len))
		return -EPROTO;
	fuse_req_t req = pc_answer_begin(l, token, bytes | attributes, &s, &err);
	if (!req)
		return err;
	if (s.request.op == PC_FUSE_READLINK) {
		char target[4096];
		memcpy(target, data, len);
		target[len] = 0;
		return pc_answer_end(l, fuse_reply_readlink(req, target));
	}
	if (attributes >> s.request.op & 1) {
		if (s.request.size == 0)
			return pc_answer_end(l, fuse_reply_xattr(req, len));
		if (len > s.request.size)
			return pc_answer_end(l, fuse_reply_err(req, ERANGE));
	}
	return pc_answer_end(l, fuse_reply_buf(req, data, len));
}

/* WRITE: the number of bytes taken, LSEEK: the offset, OPENDIR: the handlers' number of the directory. */
int pc_reply_number(struct pc_loop *l, uint64_t token, uint64_t number)
{
	struct slot s;
	int err;
	struct fuse_file_info info = {.fh = number};
	if (too_long(l, token, number))
		return -EPROTO;
	fuse_req_t req =
		pc_answer_begin(l, token, BIT(PC_FUSE_WRITE) | BIT(PC_FUSE_LSEEK) | BIT(PC_FUSE_OPENDIR), &s, &err);
	if (!req)
		return err;
	if (s.request.op == PC_FUSE_OPENDIR)
		return pc_answer_end(l, fuse_reply_open(req, &info));
	if (s.request.op == PC_FUSE_LSEEK)
		return pc_answer_end(l, fuse_reply_lseek(req, (off_t)number));
	return pc_answer_end(l, fuse_reply_write(req, number));
}

/* @fields: bsize, frsize, blocks, bfree, bavail, files, ffree, favail, namemax. */
int pc_reply_statfs(struct pc_loop *l, uint64_t token, const uint64_t *fields)
{
	struct slot s;
	int err;
	struct statvfs st = {.f_bsize = fields[0],
			     .f_frsize = fields[1],
			     .f_blocks = fields[2],
			     .f_bfree = fields[3],
			     .f_bavail = fields[4],
			     .f_files = fields[5],
			     .f_ffree = fields[6],
			     .f_favail = fields[7],
			     .f_namemax = fields[8]};
	fuse_req_t req = pc_answer_begin(l, token, BIT(PC_FUSE_STATFS), &s, &err);
	return req ? pc_answer_end(l, fuse_reply_statfs(req, &st)) : err;
}

/* ---------------------------------------------------------------- directories */

/* Encode an entry at @to, which has @room bytes; @next is the position of the following one. An entry of READDIRPLUS
 * counts as a lookup of its node, except for "." and ".." and without links: of those the kernel takes only the names.
 * @certain: false if the name may no longer exist, so that the kernel looks it up before use. Return: its length; 0: no room. */
uint64_t pc_dirent(struct pc_loop *l, char *to, uint64_t room, const char *name, const struct pc_attributes *a,
		   bool plus, bool certain, uint64_t next)
{
	struct fuse_entry_param entry = {.attr = {.st_ino = a->number, .st_mode = a->mode}};
	size_t len = plus ? fuse_add_direntry_plus(NULL, NULL, 0, name, NULL, 0)
			  : fuse_add_direntry(NULL, NULL, 0, name, NULL, 0);
	if (len > room)
		return 0;
	if (!plus)
		return fuse_add_direntry(NULL, to, room, name, &entry.attr, (off_t)next);
	if (a->nlink && strcmp(name, ".") && strcmp(name, ".."))
		entry = entry_to(l, a);
	if (!certain)
		entry.attr_timeout = entry.entry_timeout = 0;
	return fuse_add_direntry_plus(NULL, to, room, name, &entry, (off_t)next);
}
