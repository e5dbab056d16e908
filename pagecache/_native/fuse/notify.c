/*
 * notify.c - what the kernel has cached is wrong, or could be cached by it: from any thread but one that a request of the same
 * node waits for, since the kernel may wait for that request's pages.
 *
 * Return of all: 0; -ENOENT: the kernel does not know it; -ENOTCONN: the loop has ended; other errors of the kernel's.
 */
#include <string.h>
#include <unistd.h>

#include "state.h"

static int sent(struct pc_loop *l, int result)
{
	pc_sender_leave(l);
	return result;
}

/* Pages of [offset, offset + len) and attributes; len 0: to the end; offset below 0: attributes alone. */
int pc_notify_inode(struct pc_loop *l, uint64_t number, int64_t offset, int64_t len)
{
	pc_node_changed(l, number);
	if (!pc_sender_enter(l))
		return -ENOTCONN;
	return sent(l, fuse_lowlevel_notify_inval_inode(l->session, number, offset, len));
}

int pc_notify_entry(struct pc_loop *l, uint64_t parent, const char *name)
{
	pc_entry_changed(l, parent, name);
	if (!pc_sender_enter(l))
		return -ENOTCONN;
	return sent(l, fuse_lowlevel_notify_inval_entry(l->session, parent, name, strlen(name)));
}

int pc_notify_delete(struct pc_loop *l, uint64_t parent, uint64_t child, const char *name)
{
	pc_entry_changed(l, parent, name);
	pc_node_changed(l, child);
	if (!pc_sender_enter(l))
		return -ENOTCONN;
	return sent(l, fuse_lowlevel_notify_delete(l->session, parent, child, name, strlen(name)));
}

/* A message with its header, as the kernel wants it: for what libfuse has no call. */
int pc_notify(struct pc_loop *l, const char *message, uint64_t len)
{
	if (!pc_sender_enter(l))
		return -ENOTCONN;
	ssize_t done = write(fuse_session_fd(l->session), message, len);
	return sent(l, done < 0 ? -errno : 0);
}

int pc_notify_store(struct pc_loop *l, uint64_t number, int64_t offset, const char *data, uint64_t len)
{
	struct fuse_bufvec buffer = FUSE_BUFVEC_INIT(len);
	buffer.buf[0].mem = (void *)(uintptr_t)data;
	pc_node_changed(l, number);
	if (!pc_sender_enter(l))
		return -ENOTCONN;
	return sent(l, fuse_lowlevel_notify_store(l->session, number, offset, &buffer, 0));
}
