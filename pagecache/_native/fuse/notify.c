/*
 * notify.c - invalidate the kernel's caches. Any thread may call this unless a request for the same node waits for the
 * thread: the kernel may wait for that request's pages.
 *
 * Return of all: 0; -ENOENT: not in the kernel's cache; -ENOTCONN: the loop has ended; other errors of the kernel.
 */
#include <string.h>
#include <unistd.h>

#include "state.h"

/* Return the result of a notification, unless the loop has ended. */
#define NOTIFY(l, notification)                                                                                        \
	do {                                                                                                           \
		if (!pc_sender_enter(l))                                                                               \
			return -ENOTCONN;                                                                              \
		int result = notification;                                                                             \
		pc_sender_leave(l);                                                                                    \
		return result;                                                                                         \
	} while (0)

/* Invalidate pages of [offset, offset + len) and attributes; len 0: to the end; offset below 0: only attributes. */
int pc_notify_inode(struct pc_loop *l, uint64_t number, int64_t offset, int64_t len)
{
	pc_node_changed(l, number);
	NOTIFY(l, fuse_lowlevel_notify_inval_inode(l->session, number, offset, len));
}

int pc_notify_entry(struct pc_loop *l, uint64_t parent, const char *name)
{
	NOTIFY(l, fuse_lowlevel_notify_inval_entry(l->session, parent, name, strlen(name)));
}

/* Send a complete message, header included, for notifications that libfuse has no call for. */
int pc_notify_message(struct pc_loop *l, const char *message, uint64_t len)
{
	NOTIFY(l, write(fuse_session_fd(l->session), message, len) < 0 ? -errno : 0);
}
