/*
 * Readahead over a line of known latency and bandwidth, in simulated time.
 *
 *   request   |-- latency --|=== its part of the bandwidth, at most `each` ===|
 *
 * The reader takes no time: it waits for the line, or the line for it. Everything is counted exactly.
 */
#include "rig.h"

enum { MIB = 1 << 20, FLIGHTS = 64 };
#define MS  1000000ull
#define SEC 1000000000ull

struct flight {
	struct pc_work work;
	struct pc_pace_call pace;
	u64 began, len;
	double left; /* bytes */
};

static struct {
	u64 latency; /* ns */
	double bandwidth, each; /* bytes per ns */
	u64 now, passed, most, flying, reads;
	u32 nr;
	struct flight flights[FLIGHTS];
} line;

static u8 bytes[MIB];

static void set_line(u64 latency_ms, u64 mb_s, u64 each_mb_s)
{
	line.latency = latency_ms * MS;
	line.bandwidth = (double)mb_s / 1000;
	line.each = each_mb_s ? (double)each_mb_s / 1000 : line.bandwidth;
}

static void open_line(u64 capacity, u64 size, u32 max_inflight, u64 max_read)
{
	memset(&line, 0, sizeof(line));
	open_one(capacity, 64 << 10, 0, 0, LIMITS(.max_read = max_read));
	pc_volume_set_inflight(rig.volume, max_inflight);
	pc_inode_set_sizes(file->inode, size, size);
	line.now = SEC;
}

/* Begin all the calls that the volume's threads would. */
static void begin_calls(void)
{
	struct pc_work w;
	for (pc_work_next(rig.volume, &w); w.kind == PC_WORK_REQUEST; pc_work_next(rig.volume, &w)) {
		struct flight *f = &line.flights[line.nr++];
		struct call c;
		CHECK(line.nr <= FLIGHTS);
		w.request->credit = w.credit;
		EQUAL(call_next(w.request, &c), 1);
		*f = (struct flight){w, {0}, line.now, pc_request_len(w.request), (double)pc_request_len(w.request)};
		f->pace = pc_pace_begin(rig.volume, f->len, line.now);
		line.flying += f->len;
		line.reads++;
		line.most = pc_max(line.most, line.flying);
	}
	EQUAL(w.kind, PC_WORK_NONE);
}

static void end_call(u32 k)
{
	struct flight f = line.flights[k];
	line.flights[k] = line.flights[--line.nr];
	line.flying -= f.len;
	line.passed += f.len;
	pc_pace_end(rig.volume, &f.pace, line.now - f.began, line.now);
	EQUAL(pc_fill_answer(f.work.request, (i64)f.len), 0);
	pc_request_settle(f.work.request);
	end_work(&f.work);
}

/* Let time pass until a call ends, or until `until`. Return: whether one has ended. */
static bool pass(u64 until)
{
	begin_calls();
	while (line.now < until) {
		u32 active = 0;
		double step = (double)(until - line.now);
		for (u32 k = 0; k < line.nr; k++) {
			u64 ready = line.flights[k].began + line.latency;
			if (ready <= line.now)
				active++;
			else
				step = step < (double)(ready - line.now) ? step : (double)(ready - line.now);
		}
		double rate = active ? line.bandwidth / active : 0;
		rate = rate < line.each ? rate : line.each;
		for (u32 k = 0; k < line.nr; k++) {
			struct flight *f = &line.flights[k];
			if (f->began + line.latency <= line.now && f->left / rate < step)
				step = f->left / rate;
		}
		u64 ns = (u64)step + 1, from = line.now;
		line.now += ns;
		bool ended = false;
		for (u32 k = line.nr; k-- > 0;) {
			struct flight *f = &line.flights[k];
			if (f->began + line.latency > from)
				continue;
			f->left -= rate * (double)ns;
			if (f->left < 1) {
				end_call(k);
				ended = true;
			}
		}
		if (ended)
			return true;
	}
	return false;
}

/* Read as the C entry does; time passes while it waits, up to `until`. Return: bytes read. */
static u64 read_some(struct pc_readahead *ra, u64 pos, u64 len, u64 until)
{
	u64 done = 0;
	while (done < len) {
		struct pc_need need = {0};
		struct pc_request *r = NULL;
		u64 got = (u64)pc_read(file->inode, pos + done, bytes, pc_min(len - done, MIB), &need);
		done += got;
		if (need.readahead)
			pc_readahead_marker(file->inode, ra, need.marker);
		if (got)
			continue;
		if (line.now >= until)
			break;
		EQUAL(pc_fill_begin(file->inode, pos + done, len - done, &need, &r) && need.kind != PC_NEED_FOLIO, 0);
		if (r) {
			u64 stop = r->end;
			pc_fill_submit(r, PC_WORK_FILL);
			pc_readahead_miss(file->inode, ra, pos + done, len - done, stop);
		} else {
			pc_readahead_rest(file->inode, ra, pos + done, len - done);
		}
		if (pass(until))
			pc_readahead_waits(file->inode, ra, pos + done, len - done);
	}
	pc_readahead_seen(ra, pos, done);
	return done;
}

/* Read on for `ms`, in pieces. Return: permille of the line that was busy. */
static u32 read_for(struct pc_readahead *ra, u64 *pos, u64 piece, u64 ms)
{
	u64 began = line.now, end = began + ms * MS, passed = line.passed;
	double flying = 0;
	for (u32 k = 0; k < line.nr; k++)
		flying += (double)line.flights[k].len - line.flights[k].left;
	line.most = 0;
	while (line.now < end && *pos + piece <= pc_inode_size(file->inode))
		*pos += read_some(ra, *pos, piece, end);
	double carried = (double)(line.passed - passed) - flying;
	for (u32 k = 0; k < line.nr; k++)
		carried += (double)line.flights[k].len - line.flights[k].left;
	return (u32)(carried * 1000 / (line.bandwidth * (double)(line.now - began)));
}

static void finish(void)
{
	while (line.nr || rig.volume->nr_work[PC_WORK_READAHEAD])
		pass(line.now + 100 * SEC);
}

/* A stream leaves at most a tenth of the line idle, with an eighth of the cache in flight; less where that, or the 16
 * calls of 8 MiB that the store takes, are not enough. */
TEST(check_a_stream_keeps_its_line_busy)
{
	struct {
		u64 latency, mb_s, each, piece, busy, most;
	} rows[] = {
		{20, 100, 0, 64 << 10, 930, 32}, {50, 100, 0, MIB, 900, 64},         {200, 100, 0, 64 << 10, 860, 128},
		{1, 1000, 0, MIB, 950, 32},      {20, 1000, 0, 64 << 10, 930, 96},   {50, 1000, 0, MIB, 900, 128},
		{20, 1000, 80, MIB, 820, 128},   {50, 1000, 80, 64 << 10, 700, 128}, {1, 1, 0, 64 << 10, 950, 8},
	};
	for (u32 k = 0; k < sizeof(rows) / sizeof(*rows); k++) {
		open_line(1ull << 30, 64ull << 30, 16, 8 << 20);
		set_line(rows[k].latency, rows[k].mb_s, rows[k].each);
		struct pc_readahead ra = {.max = UINT32_MAX};
		u64 pos = 0;
		read_for(&ra, &pos, rows[k].piece, 4000);
		CHECK(line.most <= 128 * MIB);
		CHECK(read_for(&ra, &pos, rows[k].piece, 8000) >= rows[k].busy);
		CHECK(line.most <= rows[k].most * MIB);
		finish();
	}
}

static u64 window_after(struct pc_readahead *ra, u64 *pos, u64 ms)
{
	read_for(ra, pos, MIB, ms);
	CHECK(line.most <= 128 * MIB);
	return pc_pace_window(rig.volume) / MIB;
}

/* Latency from 1 to 200 ms and back, bandwidth from 1 GB/s to 1 MB/s and back, while a stream reads. */
TEST(check_windows_follow_the_line)
{
	open_line(1ull << 30, 64ull << 30, 16, 8 << 20);
	struct pc_readahead ra = {.max = UINT32_MAX};
	u64 pos = 0;
	set_line(1, 1000, 0);
	CHECK(window_after(&ra, &pos, 3000) <= 40);
	set_line(200, 1000, 0);
	CHECK(window_after(&ra, &pos, 1000) >= 128);
	set_line(1, 1000, 0);
	CHECK(window_after(&ra, &pos, 1000) <= 64);
	CHECK(window_after(&ra, &pos, 1000) <= 40);
	set_line(1, 1, 0); /* requests that are under way take their time: up to 25 MiB */
	u64 reads = line.reads;
	while (line.reads == reads)
		read_for(&ra, &pos, MIB, 1000);
	CHECK(window_after(&ra, &pos, 1000) <= 16);
	window_after(&ra, &pos, 60000);
	CHECK(window_after(&ra, &pos, 20000) <= 4);
	CHECK(line.most <= 8 * MIB);
	set_line(1, 1000, 0);
	read_for(&ra, &pos, MIB, 1000);
	CHECK(read_for(&ra, &pos, MIB, 1000) >= 900);
	finish();
}

/* A file of 256 MiB takes few calls more than it has of the largest size, through 512 MiB, and hardly more time than
 * the line needs for it. */
TEST(check_a_file_takes_few_calls)
{
	struct {
		u64 max_read, latency, mb_s, each, piece, ms;
		u32 reads;
	} rows[] = {
		{8, 20, 300, 0, MIB, 980, 36},    {8, 20, 1000, 0, 128 << 10, 400, 40},
		{8, 20, 1000, 80, MIB, 720, 37},  {8, 1, 1000, 0, 128 << 10, 300, 40},
		{32, 20, 300, 0, MIB, 990, 18},   {32, 20, 1000, 0, MIB, 400, 14},
		{32, 20, 1000, 80, MIB, 870, 32}, {32, 50, 300, 0, MIB, 1200, 20},
		{32, 20, 100, 0, MIB, 2850, 24},
	};
	for (u32 k = 0; k < sizeof(rows) / sizeof(*rows); k++) {
		open_line(512 << 20, 256 << 20, rows[k].max_read == 8 ? 16 : 8, rows[k].max_read << 20);
		set_line(rows[k].latency, rows[k].mb_s, rows[k].each);
		struct pc_readahead ra = {.max = 128 * MIB / PAGE};
		u64 began = line.now;
		for (u64 pos = 0; pos < 256 << 20;)
			pos += read_some(&ra, pos, rows[k].piece, ALL);
		CHECK(line.reads <= rows[k].reads);
		CHECK(line.now - began <= rows[k].ms * MS);
		EQUAL(line.passed, 256 << 20);
		finish();
	}
}

/* Long reads, one after another: at first a few calls side by side, later as many as pay. */
TEST(check_a_long_read_takes_the_calls_that_pay)
{
	struct {
		u64 each, least, most;
	} rows[] = {{0, 1, 2}, {40, 5, 8}};
	for (u32 k = 0; k < 2; k++) {
		open_line(4ull << 30, 4ull << 30, 8, 32 << 20);
		set_line(20, 300, rows[k].each);
		u64 reads = 0;
		for (u32 n = 0; n < 40; n++) {
			struct pc_readahead ra = {0};
			u64 passed = line.passed;
			reads = line.reads;
			EQUAL(read_some(&ra, n * (100ull << 20), 28 << 20, ALL), 28 << 20);
			EQUAL(line.passed - passed, 28 << 20); /* nothing behind it */
		}
		CHECK(line.reads - reads >= rows[k].least && line.reads - reads <= rows[k].most);
		finish();
	}
}
