/* The end of a cache: when its memory is unmapped, and the answers that later callers get; the end of a volume. */
#include "rig.h"

static void start(void)
{
	static u8 bytes[1 << 20];
	open_one(4 << 20, 64 << 10, sizeof(bytes), sizeof(bytes), limits_wide());
	EQUAL(file_read(file, 0, bytes, sizeof(bytes)), sizeof(bytes));
}

static void close_and_release(void)
{
	pc_cache_close(rig.cache);
	pc_cache_release(rig.cache);
}

TEST(check_a_closed_cache_hands_nothing_out_and_is_empty)
{
	u8 bytes[100];
	struct pc_need need = {0};
	struct pc_request *r;
	start();
	pc_cache_close(rig.cache);
	EQUAL(rig.cache->arena.reserved, 4 << 20);
	CHECK(rig.cache->arena.frames > 0);
	SOUND(&rig);
	EQUAL(file_read(file, 5, bytes, 100), 100); /* not released: cached bytes can be read */
	pc_cache_release(rig.cache);
	EQUAL(rig.cache->arena.frames, 0);
	EQUAL(rig.cache->arena.reserved, 0);
	SOUND(&rig);
	EQUAL(pc_read(file->inode, 5, bytes, 100, &need), 0);
	EQUAL(need.kind, PC_NEED_FILL);
	EQUAL(pc_fill_begin(file->inode, 5, 100, &need, &r), -ENOMEM);
	EQUAL(pc_write(file->inode, 5, bytes, 100, &need), 0);
	EQUAL(need.kind, PC_NEED_ROOM);
	EQUAL(pc_cache_resize(rig.cache, 8 << 20), -EINVAL);
	EQUAL(pc_drop_clean(file->inode, 0, ALL), 0);
	close_and_release();
}

TEST(check_pins_calls_and_copies_keep_the_frames_and_the_last_one_lets_them_go)
{
	struct pc_pin pins[2];
	start();
	pc_drop_clean(file->inode, 0, 64 << 10);
	for (u32 k = 0; k < 2; k++)
		pins[k] = read_pin(100 * PAGE, 10);
	struct pc_request *r = begin_fill(file, 0, PAGE);
	close_and_release();
	for (u32 k = 0; k < 2; k++) {
		EQUAL(pins[1].memory[3], first_byte(100 * PAGE + 3));
		pc_unpin(rig.cache, &pins[k]);
		pc_cache_release(rig.cache);
		CHECK(rig.cache->arena.frames > 0);
	}
	EQUAL(run_fill(file, r), 0);
	CHECK(rig.cache->arena.frames > 0);
	atomic_fetch_add(&rig.cache->copies, 1);
	pc_cache_release(rig.cache);
	CHECK(rig.cache->arena.frames > 0);
	atomic_fetch_sub(&rig.cache->copies, 1);
	pc_cache_release(rig.cache);
	EQUAL(rig.cache->arena.frames, 0);
}

TEST(check_ids_of_one_extension_class_can_be_read_in_the_others)
{
	start();
	u32 fresh = 1;
	for (u32 k = 0; k < PC_EXT_CLASSES; k++)
		fresh = rig.cache->exts[k].fresh > fresh ? (u32)rig.cache->exts[k].fresh : fresh;
	pc_cache_close(rig.cache);
	for (u32 k = 0; k < PC_EXT_CLASSES; k++) {
		CHECK(rig.cache->exts[k].reserved < 64 << 20);
		for (u32 id = 0; id < fresh; id++)
			CHECK(((volatile u8 *)pc_pool_at(&rig.cache->exts[k], id))[rig.cache->exts[k].size - 1] < 255);
	}
}

static struct pc_inode *inode_in(struct pc_volume *v)
{
	struct pc_limits limits = limits_wide();
	struct pc_inode *i;
	EQUAL(pc_inode_create(v, 0, &limits, &i), 0);
	return i;
}

TEST(check_a_volume_that_is_destroyed_gives_its_place_to_the_next_one)
{
	struct pc_volume *others[PC_VOLUMES_MAX], *v;
	rig_open(&rig, 64 * PAGE, PAGE);
	for (u32 k = 1; k < PC_VOLUMES_MAX; k++)
		others[k] = volume_open(&rig);
	EQUAL(pc_volume_create(rig.cache, 1, false, &v), -ENFILE);
	u16 tag = others[7]->tag;
	pc_volume_destroy(others[7]);
	others[7] = volume_open(&rig);
	EQUAL(others[7]->slot, 7);
	CHECK(others[7]->tag > tag);
	EQUAL(pc_volume_create(rig.cache, 1, false, &v), -ENFILE);
	for (u32 k = 1; k < PC_VOLUMES_MAX; k++)
		pc_volume_destroy(others[k]);
}

/* Objects that refer to it may be collected after it, in any order. */
TEST(check_a_volume_goes_with_its_last_inode)
{
	rig_open(&rig, 64 * PAGE, PAGE);
	struct pc_volume *v = volume_open(&rig), *next;
	struct pc_inode *one = inode_in(v), *two = inode_in(v);
	EQUAL(pc_inode_end(one), 0);
	pc_volume_destroy(v);
	CHECK(rig.cache->volumes[v->slot] == v);
	EQUAL(pc_inode_end(two), 0);
	CHECK(!rig.cache->volumes[1]);
	next = volume_open(&rig);
	CHECK(next == v && next->slot == 1 && !next->ended);
	one = inode_in(next);
	EQUAL(inode_free(one), 0);
	SOUND(&rig);
	pc_volume_destroy(next);
}

/* Its local bytes were given up with the volume; a view keeps its memory. */
TEST(check_an_inode_that_ends_takes_its_dirty_bytes_along)
{
	u8 bytes[PAGE] = "bytes";
	struct pc_pin pins[2];
	struct pc_need need = {0};
	struct pc_waiter waiter;
	rig_open(&rig, 64 * PAGE, PAGE);
	struct pc_volume *v = volume_open(&rig);
	struct pc_inode *i = inode_in(v);
	for (u32 k = 0; k < 4; k++)
		EQUAL(pc_write(i, k * PAGE, bytes, PAGE, &need), PAGE);
	pc_inode_set_uncommitted(i, true, ALL, 0, 0);
	for (u32 k = 0; k < 2; k++)
		EQUAL(pc_pin(i, k * PAGE, PAGE, k == 1, &pins[k], &need), 0);
	pc_volume_abort(v);
	EQUAL(pc_inode_destroy(i), -EBUSY);
	pc_inode_leaf_lock(i);
	pc_list_init(&waiter.link);
	CHECK(pc_token_claim(i, &waiter, PC_TOKEN_CALLER));
	pc_inode_leaf_unlock(i);
	EQUAL(pc_inode_end(i), -EBUSY); /* a call that was left behind has it */
	EQUAL(pc_volume_number(v, PC_VOLUME_LOCAL), 3 * PAGE); /* and the block that may be stored to */
	pc_token_release(i);
	EQUAL(pc_inode_end(i), 0);
	EQUAL(pc_volume_number(v, PC_VOLUME_LOCAL), 0);
	SOUND(&rig);
	pc_volume_destroy(v);
	CHECK(!rig.cache->volumes[1]);
	EQUAL(atomic_load(&rig.cache->local), 0);
	for (u32 k = 0; k < 2; k++) {
		CHECK(!memcmp(pins[k].memory, bytes, PAGE));
		pc_unpin(rig.cache, &pins[k]);
	}
}
