/*
 * lock.c - the logical locks of an inode: shared/exclusive inode lock and writeback token, both fair.
 *
 * A logical lock is a state with an owner ticket: it may be released by another thread than took it, and no function
 * here sleeps. A caller that has to wait queues a pc_waiter (on its stack, or embedded in the inode for work of the volume) and
 * sleeps elsewhere; a release grants in order, by handing the lock over before it wakes. Giving up answers atomically
 * whether the grant came first; then the lock is the caller's to pass on.
 *
 *   inode lock word   X (bit 31) | QUEUED (bit 30) | number of shared holders
 *   token             enum pc_token of the holder, FIFO of waiters
 *
 * While the token is free nothing of the file is in flight [I-12]. Waiters that belong to the volume (passes, commits) run when
 * their work is queued: io/token.c does that with the result of a grant.
 *
 * Locks: the queues are under the inode's leaf lock; the uncontended inode lock is one compare-and-swap.
 */
#include "state/state.h"

#define LOCK_X      (1u << 31)
#define LOCK_QUEUED (1u << 30)
#define LOCK_SHARED (LOCK_QUEUED - 1)

static bool compatible(u32 word, int mode)
{
	return mode == PC_EXCLUSIVE ? !(word & (LOCK_X | LOCK_SHARED)) : !(word & LOCK_X);
}

static u32 taken(u32 word, int mode)
{
	return mode == PC_EXCLUSIVE ? word | LOCK_X : word + 1;
}

bool pc_inode_lock_try(struct pc_inode *i, int mode)
{
	PC_POINT("inode_trylock");
	u32 word = atomic_load_explicit(&i->lock_word, memory_order_relaxed);
	while (!(word & LOCK_QUEUED) && compatible(word, mode))
		if (atomic_compare_exchange_weak_explicit(&i->lock_word, &word, taken(word, mode), memory_order_acquire,
							  memory_order_relaxed))
			return true;
	return false;
}

/* Hand the lock to the head of the queue for as long as it fits. Leaf lock held. */
static void grant(struct pc_inode *i)
{
	while (!pc_list_empty(&i->lock_queue)) {
		struct pc_waiter *w = PC_ENTRY(i->lock_queue.next, struct pc_waiter, link);
		u32 word = atomic_load(&i->lock_word);
		for (;;) {
			if (!compatible(word, w->mode))
				return;
			if (atomic_compare_exchange_weak(&i->lock_word, &word, taken(word, w->mode)))
				break;
		}
		pc_list_del(&w->link);
		/* After the store the waiter may return and its memory be gone: only the address is used then. */
		atomic_store(&w->word, PC_GRANTED);
		pc_futex_wake(&w->word, 1);
	}
	atomic_fetch_and(&i->lock_word, ~LOCK_QUEUED);
}

/* Queue for the lock; w->word says when it is granted, which may be at once. */
void pc_inode_lock_enqueue(struct pc_inode *i, struct pc_waiter *w, int mode)
{
	pc_inode_leaf_lock(i);
	atomic_store(&w->word, PC_WAITING);
	w->mode = (u8)mode;
	pc_list_add_tail(&i->lock_queue, &w->link);
	atomic_fetch_or(&i->lock_word, LOCK_QUEUED);
	pc_counted(i, &i->counters.lock_waits, 1);
	grant(i);
	pc_inode_leaf_unlock(i);
}

/* Leave the queue of the lock or token. Return: true when that had been granted: the caller has it and must release it. */
bool pc_waiter_cancel(struct pc_inode *i, struct pc_waiter *w)
{
	pc_inode_leaf_lock(i);
	bool granted = atomic_load(&w->word) == PC_GRANTED;
	if (!granted) {
		pc_list_del(&w->link);
		grant(i); /* others may fit now that this one does not stand before them */
	}
	pc_inode_leaf_unlock(i);
	return granted;
}

void pc_inode_lock_release(struct pc_inode *i, int mode)
{
	u32 old = mode == PC_EXCLUSIVE ? atomic_fetch_and(&i->lock_word, ~LOCK_X) : atomic_fetch_sub(&i->lock_word, 1);
	PC_POINT("inode_unlocked");
	PC_DEBUG_ASSERT(mode == PC_EXCLUSIVE ? old & LOCK_X : old & LOCK_SHARED);
	if (PC_UNLIKELY(old & LOCK_QUEUED)) {
		pc_inode_leaf_lock(i);
		grant(i);
		pc_inode_leaf_unlock(i);
	}
}

bool pc_inode_is_locked(const struct pc_inode *i)
{
	return atomic_load(&((struct pc_inode *)i)->lock_word) & (LOCK_X | LOCK_SHARED);
}

/* ---------------------------------------------------------------- token */

/* Return: true when the token is the caller's now; else w is queued, and a pass that has it must give way. Leaf lock held. */
bool pc_token_claim(struct pc_inode *i, struct pc_waiter *w, int kind)
{
	atomic_store(&w->word, PC_WAITING);
	w->mode = (u8)kind;
	if (i->token == PC_TOKEN_FREE && pc_list_empty(&i->token_queue)) {
		i->token = (u8)kind;
		atomic_store(&w->word, PC_GRANTED);
		return true;
	}
	pc_list_add_tail(&i->token_queue, &w->link);
	return false;
}

/* The holder is done: grant the token to the next in line. Leaf lock held.
 * Return: the kind of the new holder, whose work the caller queues; PC_TOKEN_FREE: there is none. */
enum pc_token pc_token_pass_on(struct pc_inode *i)
{
	PC_DEBUG_ASSERT(i->token != PC_TOKEN_FREE);
	PC_DEBUG_ASSERT(i->pass.inflight == 0);
	i->token = PC_TOKEN_FREE;
	i->gate = 0;
	if (pc_list_empty(&i->token_queue))
		return PC_TOKEN_FREE;
	struct pc_waiter *w = PC_ENTRY(i->token_queue.next, struct pc_waiter, link);
	enum pc_token kind = w->mode;
	pc_list_del(&w->link);
	i->token = (u8)kind;
	/* After the store a caller may return and its waiter's memory be gone: only the address is used then. */
	atomic_store(&w->word, PC_GRANTED);
	if (kind == PC_TOKEN_CALLER)
		pc_futex_wake(&w->word, 1);
	return kind;
}
