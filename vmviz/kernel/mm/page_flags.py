"""The flags of struct page that are kept (models include/linux/page-flags.h), under numbers of our own."""

from __future__ import annotations

PG_ANON, PG_EXCLUSIVE, PG_LRU, PG_SWAPBACKED = 1, 2, 4, 8
PG_UPTODATE, PG_DIRTY, PG_REFERENCED, PG_ACTIVE = 16, 32, 64, 128
PG_RESERVED, PG_PGTABLE, PG_ZERO, PG_HIDDEN = 256, 512, 1024, 2048
PG_MLOCKED, PG_UNEVICTABLE, PG_SWAPCACHE = 4096, 8192, 16384
PG_HEAD, PG_TAIL, PG_HUGETLB = 1 << 15, 1 << 16, 1 << 17
PG_COMPOUND = PG_HEAD | PG_TAIL
PG_NAMES = {
    PG_ANON: "anon",
    PG_EXCLUSIVE: "exclusive",
    PG_LRU: "lru",
    PG_SWAPBACKED: "swapbacked",
    PG_UPTODATE: "uptodate",
    PG_DIRTY: "dirty",
    PG_REFERENCED: "referenced",
    PG_ACTIVE: "active",
    PG_RESERVED: "reserved",
    PG_PGTABLE: "pgtable",
    PG_ZERO: "zero",
    PG_HIDDEN: "hidden",
    PG_MLOCKED: "mlocked",
    PG_UNEVICTABLE: "unevictable",
    PG_SWAPCACHE: "swapcache",
    PG_HEAD: "head",
    PG_TAIL: "tail",
    PG_HUGETLB: "hugetlb",
}
HPAGE_PMD_ORDER, HPAGE_PMD_NR = 9, 512
"""Compound pages here are of one order: what a PMD maps, 512 frames at a multiple of 512."""
