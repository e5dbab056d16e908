/*
 * show.c - what a live view asks for: one number of a file, the lengths of the queues.
 *
 * Nothing here changes anything, and no caller waits for it longer than for any other section under a leaf lock. Hits take no leaf
 * lock and never notice.
 *
 * The struct of an inode is never unmapped while the cache lives, so a caller may come with one that is gone, or is another file by now:
 * the id says so.
 */
#include "state/state.h"

/* Bytes in a running call are as old as when they were dirty; a running commit is as old as its call. Leaf lock held. */
static u64 unsaved_since(const struct pc_inode *i)
{
	u64 dirty = i->nr_dirty || i->nr_writeback ? i->dirtied_ns : 0;
	u64 committing = i->commit_running && i->commit_due ? i->commit_ns : 0;
	return dirty && committing ? pc_min(dirty, committing) : dirty + committing;
}

/**
 * pc_show_number() - what files are sorted by, without a report of everything.
 *
 * Return: bytes, hits, or when the oldest byte was written that is dirty or in a running call (0: none is); 0 when the inode is gone.
 */
uint64_t pc_show_number(struct pc_inode *i, uint64_t id, uint32_t which)
{
	u32 shift = i->cache->page_shift;
	u64 number = 0;
	PC_SYNC("show_before_lock");
	pc_inode_leaf_lock(i);
	if (i->id == id)
		number = which == PC_BY_DIRTY      ? i->nr_dirty << shift
			 : which == PC_BY_CACHED   ? i->nr_pages << shift
			 : which == PC_BY_FAILED   ? i->nr_failed << shift
			 : which == PC_BY_UNSTABLE ? i->nr_unstable << shift
			 : which == PC_BY_HITS     ? pc_inode_hits(i)
			 : which == PC_BY_UNSTORED ? (i->nr_dirty + i->nr_writeback) << shift
			 : which == PC_BY_TAKEN    ? pc_inode_taken(i)
						   : unsaved_since(i);
	pc_inode_leaf_unlock(i);
	return number;
}

/* Pieces of work that no thread has taken yet, by class. */
void pc_show_queue(struct pc_volume *v, uint32_t *waiting)
{
	pc_leaf_lock(&v->leaf, PC_LEVEL_QUEUE);
	for (u32 cls = 0; cls < PC_WORK_CLASSES; cls++)
		waiting[cls] = v->nr_work[cls] + v->jobs[cls];
	pc_leaf_unlock(&v->leaf, PC_LEVEL_QUEUE);
}
