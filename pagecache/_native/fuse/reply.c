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

static struct fuse_entry_param entry_of(struct pc_loop *l, const struct slot *s, const struct pc_attributes *a)
{
	pc_attributes_seen(l, a, s->request.tick, s->request.arrived_ns);
	return entry_to(l, a);
}

int pc_reply_entry(struct pc_loop *l, uint64_t token, const struct pc_attributes *a)
{
	struct slot s;
	struct fuse_entry_param entry;
	int err;
	u64 kinds = BIT(PC_FUSE_LOOKUP) | BIT(PC_FUSE_MKNOD) | BIT(PC_FUSE_MKDIR) | BIT(PC_FUSE_SYMLINK) |
		    BIT(PC_FUSE_LINK);
	if (a->number == 0) {
		count(&l->counts.refused);
		return -EPROTO;
	}
	fuse_req_t req = pc_answer_begin(l, token, kinds, &s, &err);
	if (!req)
		return err;
	entry = entry_of(l, &s, a);
	return pc_answer_end(l, fuse_reply_entry(req, &entry));
}

int pc_reply_attributes(struct pc_loop *l, uint64_t token, const struct pc_attributes *a)
{
	struct slot s;
	struct stat st;
	int err;
	fuse_req_t req = pc_answer_begin(l, token, BIT(PC_FUSE_GETATTR) | BIT(PC_FUSE_SETATTR), &s, &err);
	if (!req)
		return err;
	pc_attributes_seen(l, a, s.request.tick, s.request.arrived_ns);
	pc_stat_of(a, &st);
	return pc_answer_end(l, fuse_reply_attr(req, &st, (double)l->options.attr_ns / 1e9));
}

static void info_of(struct pc_loop *l, struct pc_opened *o, bool kept, struct fuse_file_info *info)
{
	*info = (struct fuse_file_info){.fh = (uintptr_t)o};
	info->direct_io = l->options.direct_io;
	info->keep_cache = kept && l->options.keep_pages && !l->options.direct_io;
#ifdef PC_PARALLEL_WRITES
	info->parallel_direct_writes = l->options.direct_io && l->options.parallel_writes;
#endif
}

int pc_reply_create(struct pc_loop *l, uint64_t token, const struct pc_attributes *a, struct pc_opened *o)
{
	struct slot s;
	struct fuse_entry_param entry;
	struct fuse_file_info info;
	int err;
	if (a->number == 0 || o->number != a->number) {
		count(&l->counts.refused);
		return -EPROTO;
	}
	fuse_req_t req = pc_answer_begin(l, token, BIT(PC_FUSE_CREATE), &s, &err);
	if (!req)
		return err;
	info_of(l, o, false, &info);
	entry = entry_of(l, &s, a);
	return pc_answer_end(l, fuse_reply_create(req, &entry, &info));
}

int pc_reply_open(struct pc_loop *l, uint64_t token, struct pc_opened *o, bool kept)
{
	struct slot s;
	struct fuse_file_info info;
	int err;
	fuse_req_t req = pc_answer_begin(l, token, BIT(PC_FUSE_OPEN), &s, &err);
	if (!req)
		return err;
	info_of(l, o, kept, &info);
	return pc_answer_end(l, fuse_reply_open(req, &info));
}

int pc_reply_opendir(struct pc_loop *l, uint64_t token, uint64_t fh)
{
	struct slot s;
	int err;
	struct fuse_file_info info = {.fh = fh};
	fuse_req_t req = pc_answer_begin(l, token, BIT(PC_FUSE_OPENDIR), &s, &err);
	return req ? pc_answer_end(l, fuse_reply_open(req, &info)) : err;
}

/* Refuse an answer longer than requested; the request stays unanswered. */
static bool too_long(struct pc_loop *l, u64 token, u64 len)
{
	pthread_mutex_lock(&l->lock);
	struct slot *s = pc_slot_submitted(l, token);
	u64 most = !s ? UINT64_MAX : s->request.op == PC_FUSE_READLINK ? 4095 : s->request.size;
	bool attribute = s && (s->request.op == PC_FUSE_GETXATTR || s->request.op == PC_FUSE_LISTXATTR);
	pthread_mutex_unlock(&l->lock);
	if (len <= most || (attribute && len <= UINT32_MAX))
		return false;
	count(&l->counts.refused);
	return true;
}

/* Bytes of a file, a link, an extended attribute (or only its length, or ERANGE, as the request wants). */
int pc_reply_data(struct pc_loop *l, uint64_t token, const char *data, uint64_t len)
{
	struct slot s;
	int err;
	u64 attributes = BIT(PC_FUSE_GETXATTR) | BIT(PC_FUSE_LISTXATTR);
	if (too_long(l, token, len))
		return -EPROTO;
	fuse_req_t req = pc_answer_begin(l, token, BIT(PC_FUSE_READ) | BIT(PC_FUSE_READLINK) | attributes, &s, &err);
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

int pc_reply_written(struct pc_loop *l, uint64_t token, uint64_t len)
{
	struct slot s;
	int err;
	if (too_long(l, token, len))
		return -EPROTO;
	fuse_req_t req = pc_answer_begin(l, token, BIT(PC_FUSE_WRITE), &s, &err);
	return req ? pc_answer_end(l, fuse_reply_write(req, len)) : err;
}

int pc_reply_offset(struct pc_loop *l, uint64_t token, uint64_t offset)
{
	struct slot s;
	int err;
	if (offset > INT64_MAX) {
		count(&l->counts.refused);
		return -EPROTO;
	}
	fuse_req_t req = pc_answer_begin(l, token, BIT(PC_FUSE_LSEEK), &s, &err);
	return req ? pc_answer_end(l, fuse_reply_lseek(req, (off_t)offset)) : err;
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

struct pc_dirents {
	u64 size, used;
	bool plus;
	char bytes[];
};

/* @size: of the request. Return: NULL: no memory. */
struct pc_dirents *pc_dirents_new(uint64_t size, bool plus)
{
	struct pc_dirents *d = size <= UINT32_MAX ? calloc(1, sizeof(*d) + size) : NULL;
	if (d)
		*d = (struct pc_dirents){.size = size, .plus = plus};
	return d;
}

/**
 * pc_dirents_add() - add an entry; `next` is the position of the following one.
 *
 * An entry of READDIRPLUS counts as a lookup of its node, except for "." and "..", of which the kernel takes only the
 * names. @certain: false if the name may no longer exist, so that the kernel looks it up before use. Return: false: no
 * room.
 */
bool pc_dirents_add(struct pc_loop *l, struct pc_dirents *d, const char *name, const struct pc_attributes *a,
		    bool certain, uint64_t next)
{
	struct fuse_entry_param entry = {.ino = a->number, .attr = {.st_ino = a->number, .st_mode = a->mode}};
	size_t used;
	if (!d->plus) {
		used = fuse_add_direntry(NULL, d->bytes + d->used, d->size - d->used, name, &entry.attr, (off_t)next);
		if (used > d->size - d->used)
			return false;
		d->used += used;
		return true;
	}
	bool looked_up = strcmp(name, ".") && strcmp(name, "..");
	used = fuse_add_direntry_plus(NULL, NULL, 0, name, NULL, 0);
	if (used > d->size - d->used)
		return false;
	if (looked_up)
		entry = entry_to(l, a);
	else
		entry.ino = 0;
	if (!certain)
		entry.attr_timeout = entry.entry_timeout = 0;
	d->used += fuse_add_direntry_plus(NULL, d->bytes + d->used, d->size - d->used, name, &entry, (off_t)next);
	return true;
}

void pc_dirents_free(struct pc_dirents *d)
{
	free(d);
}

int pc_reply_dirents(struct pc_loop *l, uint64_t token, struct pc_dirents *d)
{
	struct slot s;
	int err = 0;
	u64 kind = d->plus ? BIT(PC_FUSE_READDIRPLUS) : BIT(PC_FUSE_READDIR);
	fuse_req_t req = too_long(l, token, d->used) ? NULL : pc_answer_begin(l, token, kind, &s, &err);
	if (req)
		err = pc_answer_end(l, fuse_reply_buf(req, d->bytes, d->used));
	else if (!err)
		err = -EPROTO;
	return err;
}
