/*
 * state.h - what state/ offers: the objects of a cache, their transitions and records.
 *
 * Everything that a folio can be is one 32-bit state word, five block sets and a list of byte extents; everything that a
 * file can be is one inode with one radix index. All memory here is type-stable: descriptors, index nodes and extensions
 * come from pools that are never unmapped while the cache lives, so a reader without a lock may follow a stale id and
 * find out by comparing identities (contract 1.4).
 *
 * docs/architecture.md has the tables of the locks and of the waits.
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
