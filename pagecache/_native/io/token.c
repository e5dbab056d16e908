/*
 * token.c - take, queue for and release the token; a grant to a pass or a commit becomes work of the volume.
 *
 * lock.c keeps the token and its queue. It returns the kind of the holder that a release granted the token to, and this
 * file queues the work.
 *
 * Locks: the inode's leaf lock.
 */
#include "io/io.h"

/* Take the token for @kind, or queue @w. Leaf lock held. Return: whether the caller has the token now. */
bool pc_token_take(struct pc_inode *i, struct pc_waiter *w, int kind)
{
	bool taken = pc_token_claim(i, w, kind);
	if (!taken)
		pc_work_raise_pass(i);
	return taken;
}

/* Release the token and grant it to the next in line. Leaf lock held. */
void pc_token_release_locked(struct pc_inode *i)
{
	enum pc_token holder = pc_token_pass_on(i);
	if (holder == PC_TOKEN_PASS)
		pc_pass_begin(i);
	else if (holder == PC_TOKEN_COMMIT)
		pc_work_push_commit(i);
	pc_event_wake(&i->event);
}

/* Calls of an earlier connection can no longer land: release their shares of the token. */
void pc_inode_fence(struct pc_inode *i)
{
	pc_inode_leaf_lock(i);
	i->token_turn++;
	i->token_lent = 0;
	if (i->token == PC_TOKEN_STRAY)
		pc_token_release_locked(i);
	pc_inode_leaf_unlock(i);
}

void pc_token_release(struct pc_inode *i)
{
	pc_inode_leaf_lock(i);
	pc_token_release_locked(i);
	pc_inode_leaf_unlock(i);
}
