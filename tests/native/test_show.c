/*
 * Displayed values: one number of a file, lengths of queues, durations of calls.
 */
#include "rig.h"

enum { ROOM = 1 << 22 };

static u8 bytes[ROOM];

static void start(u64 size, u64 max_folio)
{
	open_one(8 << 20, max_folio, size, ROOM, limits_wide());
	for (u32 k = 0; k < ROOM; k++)
		bytes[k] = (u8)(k * 31 + k / 256 + 3);
}

static void dirty(u64 pos, u64 len)
{
	EQUAL(file_write(file, pos, bytes + pos, len), 0);
}

/* A late call finds it empty: its struct goes to no other inode before it is freed. */
TEST(check_of_an_inode_that_is_gone_nothing_is_shown)
{
	start(PAGE, PAGE);
	dirty(0, PAGE);
	EQUAL(NUMBER(file->inode, DIRTY), PAGE);
	EQUAL(file_sync(file), 0);
	EQUAL(NUMBER(file->inode, CACHED), PAGE);
	EQUAL(pc_inode_destroy(file->inode), 0);
	EQUAL(pc_inode_destroy(file->inode), 0);
	struct pc_limits limits = limits_wide();
	struct pc_inode *next;
	EQUAL(pc_inode_create(rig.volume, PAGE, &limits, &next), 0);
	pc_inode_set_unused(file->inode, true);
	EQUAL(pc_cache_hollow(rig.cache), 0);
	pc_commit_start(file->inode, 0);
	pc_settle_start(file->inode);
	EQUAL(NUMBER(file->inode, STORAGE_BUSY), 0);
	EQUAL(NUMBER(file->inode, SIZE), 0);
	EQUAL(NUMBER(file->inode, CACHED), 0);
	EQUAL(NUMBER(next, SIZE), PAGE);
	SOUND(&rig);
	EQUAL(inode_free(next), 0);
	EQUAL(inode_free(file->inode), 0);
	file_forget(file);
	rig.nr_files = 0;
}

TEST(check_the_queue_is_counted_by_class)
{
	u32 waiting[PC_WORK_CLASSES];
	start(4 * PAGE, PAGE);
	dirty(0, PAGE);
	pc_job_push(rig.volume, PC_WORK_NAMES);
	pc_flush_start(file->inode, UINT64_MAX >> 16, 0, UINT64_MAX);
	pc_show_queue(rig.volume, waiting);
	EQUAL(waiting[PC_WORK_NAMES], 1);
	EQUAL(waiting[PC_WORK_INTEGRITY], 1);
	EQUAL(waiting[PC_WORK_COMMIT] + waiting[PC_WORK_FILL] + waiting[PC_WORK_BACKGROUND] +
		      waiting[PC_WORK_READAHEAD],
	      0);
	next_work(PC_WORK_JOB);
}

static void count(u64 ns, u32 k)
{
	u64 before[PC_LATENCY_BOUNDS + 1], after[PC_LATENCY_BOUNDS + 1];
	u64 sum = pc_latency_get(rig.volume, PC_TIMED_WRITE, before);
	pc_latency_add(rig.volume, PC_TIMED_WRITE, ns);
	EQUAL(pc_latency_get(rig.volume, PC_TIMED_WRITE, after), sum + ns);
	for (u32 j = 0; j <= PC_LATENCY_BOUNDS; j++)
		EQUAL(after[j], before[j] + (j == k));
}

TEST(check_a_duration_is_counted_at_the_first_bound_that_it_did_not_exceed)
{
	u64 counts[PC_LATENCY_BOUNDS + 1];
	start(PAGE, PAGE);
	count(0, 0);
	count(1, 0);
	for (u32 k = 0; k < PC_LATENCY_BOUNDS; k++) {
		u64 bound = 1000ull << k;
		count(bound - 1, k);
		count(bound, k);
		count(bound + 1, k + 1);
	}
	count(UINT64_MAX / 4, PC_LATENCY_BOUNDS);
	EQUAL(pc_latency_get(rig.volume, PC_TIMED_READ, counts), 0);
}
