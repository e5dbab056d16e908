/* Sums and lists of a volume: inodes by age, with unsaved data, hollow. */
#include "rig.h"

enum { NR = 4 };

static struct file *files[NR];
static u8 bytes[PAGE];

static void start(void)
{
	rig_open(&rig, 64 * PAGE, PAGE);
	pc_cache_configure(rig.cache, 64 * PAGE, 64 * PAGE, PAGE, false);
	for (u32 k = 0; k < NR; k++)
		files[k] = file_open(&rig, 4 * PAGE, 8 * PAGE);
}

static void dirty(u32 k, u64 page)
{
	EQUAL(file_write(files[k], page * PAGE, bytes, PAGE), 0);
}

/* Return these ids as digits: 312 is files 3, 1 and 2. */
static u64 digits(const uint64_t *ids, size_t n)
{
	u64 found = 0;
	for (size_t k = 0; k < n; k++)
		for (u32 f = 0; f < NR; f++)
			if (ids[k] == pc_inode_id(files[f]->inode))
				found = found * 10 + f;
	return found;
}

static u64 aged(u64 before, size_t n, u64 *next)
{
	uint64_t ids[NR];
	return digits(ids, pc_volume_aged(rig.volume, before, ids, n, next));
}

static u64 some(u32 which, size_t n)
{
	uint64_t ids[NR];
	return digits(ids, pc_volume_some(rig.volume, which, ids, n));
}

static u64 unsaved(void)
{
	return pc_volume_number(rig.volume, PC_VOLUME_UNSAVED);
}

static u64 hollow(void)
{
	return pc_cache_hollow(rig.cache);
}

/* An inode becomes hollow when its last handle, page or unsaved byte goes, whichever is the last. */
TEST(check_an_inode_is_hollow_when_nothing_is_left_of_it)
{
	start();
	EQUAL(hollow(), 0);
	pc_inode_set_unused(files[1]->inode, true);
	EQUAL(hollow(), 1);
	EQUAL(file_read(files[1], 0, bytes, PAGE), PAGE); /* readahead of a closed file does so */
	EQUAL(hollow(), 0);
	SOUND(&rig);
	EQUAL(pc_reclaim(rig.cache, 1), 1);
	EQUAL(hollow(), 1);
	EQUAL(some(PC_LIST_HOLLOW, NR), 1);
	pc_inode_set_unused(files[1]->inode, false);
	EQUAL(hollow(), 0);
	dirty(2, 0);
	pc_inode_set_unused(files[2]->inode, true);
	EQUAL(hollow(), 0);
	EQUAL(file_sync(files[2]), 0);
	EQUAL(hollow(), 0); /* its page is there */
	pc_drop_clean(files[2]->inode, 0, ALL);
	EQUAL(hollow(), 1);
	pc_inode_set_uncommitted(files[2]->inode, true, ALL, 0, 0);
	EQUAL(hollow(), 0);
	EQUAL(file_sync(files[2]), 0);
	EQUAL(hollow(), 1);
}

TEST(check_a_hollow_inode_that_is_destroyed_leaves_the_list)
{
	rig_open(&rig, 64 * PAGE, PAGE);
	struct pc_inode *one, *two;
	struct pc_limits limits = limits_wide();
	for (int k = 0; k < 100; k++) {
		EQUAL(pc_inode_create(rig.volume, 0, &limits, &one), 0);
		EQUAL(pc_inode_create(rig.volume, 0, &limits, &two), 0);
		pc_inode_set_unused(one, true);
		pc_inode_set_unused(two, true);
		EQUAL(hollow(), 2);
		EQUAL(inode_free(k % 2 ? one : two), 0);
		EQUAL(hollow(), 1);
		SOUND(&rig);
		EQUAL(inode_free(k % 2 ? two : one), 0);
		EQUAL(hollow(), 0);
	}
	EQUAL(rig.cache->inode_slots, 2); /* places are reused */
}

/* Oldest first. A file that is set aside leaves the list, and counts as dirtied when it comes back. */
TEST(check_files_age_in_the_order_of_their_oldest_dirty_bytes)
{
	u64 next;
	start();
	for (u32 k = 0; k < NR; k++) {
		pc_tick(rig.cache, 100 * (k + 1));
		dirty(NR - 1 - k, 0);
	}
	dirty(3, 1);
	EQUAL(aged(299, NR, &next), 32);
	EQUAL(next, 300);
	EQUAL(aged(1000, 3, &next), 321);
	EQUAL(next, 400);
	EQUAL(aged(1000, NR, &next), 3210);
	EQUAL(next, 0);
	pc_tick(rig.cache, 500);
	pc_inode_age_anew(files[2]->inode);
	EQUAL(aged(1000, NR, &next), 3102);
	EQUAL(flush(files[1]), 0);
	EQUAL(aged(1000, NR, &next), 302);
	pc_inode_set_aside(files[3]->inode, PC_ASIDE_KEPT_BACK);
	EQUAL(aged(1000, NR, &next), 2); /* "02" */
	SOUND(&rig);
	pc_tick(rig.cache, 600);
	pc_inode_set_aside(files[3]->inode, 0);
	EQUAL(aged(1000, NR, &next), 23); /* "023" */
}

/* Each turn goes on behind the last one, even if a member has left, and begins again at the first. */
TEST(check_turns_go_round_all_members)
{
	start();
	for (u32 k = 0; k < NR; k++)
		dirty(k, 0);
	EQUAL(some(PC_LIST_AGED, NR), 123);
	EQUAL(some(PC_LIST_AGED, NR), 123);
	EQUAL(some(PC_LIST_AGED, 3), 12);
	EQUAL(some(PC_LIST_AGED, 3), 301);
	EQUAL(flush(files[2]), 0); /* whose turn it was */
	EQUAL(some(PC_LIST_AGED, 1), 3);
	EQUAL(some(PC_LIST_AGED, 1), 0);
	dirty(2, 0);
	EQUAL(some(PC_LIST_AGED, 3), 132);
	EQUAL(some(PC_LIST_DIRTY, 2), 1);
	EQUAL(some(PC_LIST_DIRTY, 2), 23);
	for (u32 k = 0; k < NR; k++)
		EQUAL(file_sync(files[k]), 0);
	EQUAL(some(PC_LIST_AGED, NR) + some(PC_LIST_DIRTY, NR), 0);
}

/* The bytes that a sync would save are a sum. It excludes inodes set aside, whatever they get in that time. */
TEST(check_bytes_to_save_are_counted_without_those_aside)
{
	start();
	dirty(0, 0);
	dirty(1, 0);
	dirty(1, 1);
	EQUAL(unsaved(), 3 * PAGE);
	pc_inode_set_aside(files[1]->inode, PC_ASIDE_UNSYNCED);
	EQUAL(unsaved(), PAGE);
	dirty(1, 2);
	pc_inode_set_aside(files[1]->inode, PC_ASIDE_UNSYNCED | PC_ASIDE_KEPT_BACK);
	EQUAL(unsaved(), PAGE);
	SOUND(&rig);
	pc_inode_set_aside(files[1]->inode, 0);
	EQUAL(unsaved(), 4 * PAGE);
	EQUAL(flush(files[1]), 0);
	EQUAL(unsaved(), 4 * PAGE); /* not committed */
	EQUAL(file_sync(files[1]), 0);
	EQUAL(unsaved(), PAGE);
}

/* The volume's numbers are those of its inodes, and sums stay when inodes go. */
TEST(check_sums_are_those_of_the_inodes)
{
	struct pc_counters all, one;
	struct pc_usage sum;
	start();
	for (u32 k = 0; k < NR; k++) {
		dirty(k, k);
		EQUAL(file_read(files[k], 0, bytes, PAGE), PAGE);
		EQUAL(k % 2 ? (u32)file_sync(files[k]) : flush(files[k]), 0);
	}
	file_truncate(files[0], PAGE);
	SOUND(&rig);
	u64 requests = 0, written = 0, size = 0;
	for (u32 k = 0; k < NR; k++) {
		size += usage(files[k], &one).size;
		requests += one.read_requests;
		written += one.write_bytes;
	}
	pc_volume_counters(rig.volume, &all, &sum);
	EQUAL(all.read_requests, requests);
	EQUAL(all.write_bytes, written);
	EQUAL(sum.size, size);
	EQUAL(size, PAGE + 3 * 4 * PAGE);
	struct pc_inode *gone;
	struct pc_limits limits = limits_wide();
	EQUAL(pc_inode_create(rig.volume, 7, &limits, &gone), 0);
	COUNT(gone, retries);
	pc_volume_counters(rig.volume, &all, &sum);
	EQUAL(sum.size, size + 7);
	EQUAL(inode_free(gone), 0);
	pc_volume_counters(rig.volume, &all, &sum);
	EQUAL(sum.size, size);
	EQUAL(all.retries, 1);
}

/* Find the events that have moved, each once; an empty place never has. */
TEST(check_events_that_moved_are_found)
{
	start();
	uintptr_t inodes[NR];
	u32 seen[NR], moved[NR];
	for (u32 k = 0; k < NR; k++) {
		inodes[k] = (uintptr_t)files[k]->inode;
		seen[k] = NUMBER(files[k]->inode, EVENT) - (k == 2);
	}
	EQUAL(pc_events_moved(inodes, seen, NR, moved), 1);
	EQUAL(moved[0], 2);
	EQUAL(pc_events_moved(inodes, seen, NR, moved), 0);
	for (u32 k = 0; k < NR; k++)
		pc_inode_wake(files[k]->inode);
	inodes[1] = 0;
	EQUAL(pc_events_moved(inodes, seen, NR, moved), 3);
	EQUAL(moved[0] * 100 + moved[1] * 10 + moved[2], 23);
}
