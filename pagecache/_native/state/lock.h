/*
 * lock.h - the logical locks of an inode: inode lock and token, and a place in their queues (lock.c).
 */
#ifndef PC_LOCK_H
#define PC_LOCK_H

#include "base/base.h"

struct pc_inode;

/* A place in a fair queue (inode lock, token). In the operation of the waiting call, or embedded in the inode for work that
 * belongs to the volume. */
struct pc_waiter {
	struct pc_list link;
	_Atomic u32 word; /* PC_WAITING, PC_GRANTED */
	u8 mode;          /* PC_SHARED, PC_EXCLUSIVE; for the token: enum pc_token */
};
enum { PC_WAITING = 0, PC_GRANTED = 1 };
enum { PC_SHARED = 1, PC_EXCLUSIVE = 2 };

bool pc_inode_lock_try(struct pc_inode *i, int mode);
void pc_inode_lock_enqueue(struct pc_inode *i, struct pc_waiter *w, int mode);
void pc_inode_lock_release(struct pc_inode *i, int mode);
bool pc_inode_is_locked(const struct pc_inode *i);
bool pc_token_claim(struct pc_inode *i, struct pc_waiter *w, int kind);
bool pc_waiter_cancel(struct pc_inode *i, struct pc_waiter *w);
enum pc_token pc_token_pass_on(struct pc_inode *i);

#endif
