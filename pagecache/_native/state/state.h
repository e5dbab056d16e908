/*
 * state.h - what state/ offers: the objects of a cache, their transitions and records; and the one table of the locks.
 *
 * Everything that a folio can be is one 32-bit state word, five block sets and a list of byte extents; everything that a
 * file can be is one inode with one radix index. All memory here is type-stable: descriptors, index nodes and extensions
 * come from pools that are never unmapped while the cache lives, so a reader without a lock may follow a stale id and
 * find out by comparing identities (contract 1.4).
 *
 * Locks, outer to inner (contract section 3). Logical locks are states with an owner; leaf locks are short spin-then-sleep
 * sections in which nothing allocates, reclaims, copies content or calls Python.
 *
 *   level  name              kind     guards / edge taken in
 *   1      inode lock        logical  content order of writers, truncate     lock.c pc_inode_lock_*
 *   2      direct writes     logical  `nr_direct`, held with the inode lock    direct.c pc_direct_begin
 *   3      token             logical  the right to create requests, commit   io/token.c pc_token_*
 *   4      invalidate        logical  `inval_x`: no fill may start           truncate.c
 *   5      folio lock        logical  PC_F_LOCKED: V, identity, membership   descriptor.c pc_folio_trylock
 *   6      inode leaf        leaf     sets, stamps, marks, sizes, index, token queue, pass state
 *   7      reclaim queue     leaf     S3-FIFO links, queue bits, ghost       reclaim.c (trylocks 5 and 6 of a victim)
 *   7      volume leaf       leaf     work queues, dirty list
 *   7      room              leaf     reservations of dirty budget, writers in line  room.c
 *   8      shadow, arena, pool  leaf  frames held by calls; free blocks; free ids
 *
 * Waits and the calls that end them (all waits, including those of the engine: docs/architecture.md):
 *   folio event (hashed)   a locked or in-flight folio    pc_folio_unlock, pc_write_done; abort wakes all
 *   inode event            stamps, commits, token, inval_x  pc_write_done, pc_commit_end, pc_token_release, abort
 *   volume event           work, credits                  a thread that queues work or returns a credit; abort
 *   cache event            room for dirty data            completions, commits, discards, limit changes; abort
 *   fair queues            inode lock, token              the holder's release, granted in order; cancel answers GRANTED
 */
#ifndef PC_STATE_H
#define PC_STATE_H

#include "state/cache.h"
#include "state/folio.h"
#include "state/index.h"
#include "state/inode.h"
#include "state/lock.h"
#include "state/rangemap.h"
#include "state/ranges.h"
#include "state/reclaim.h"
#include "state/request.h"
#include "state/room.h"
#include "state/shadow.h"
#include "state/staged.h"
#include "state/volume.h"
#include "state/waits.h"
#include "state/written.h"

#endif
