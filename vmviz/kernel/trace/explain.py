"""A sentence for each kernel function and tracepoint that the journal names: where it lives in Linux 6.1, and
what it is for.
"""

from __future__ import annotations

import attrs


@attrs.frozen
class Explained:
    """The file of Linux that a function stands in, and in our words what it does."""

    file: str
    sentence: str


_FUNCTIONS: dict[str, tuple[str, str]] = {
    "zap_vma_ptes": (
        "mm/memory.c",
        (
            "A driver takes PTEs of its mapping away; the VMA stays. All of the range must lie in one "
            "VM_PFNMAP VMA."
        ),
    ),
    "zap_special_vma_range": (
        "mm/memory.c",
        (
            "The name of zap_vma_ptes from 7.1 on: VM_MIXEDMAP mappings are accepted too, and nothing "
            "is returned."
        ),
    ),
    "zap_page_range_single": (
        "mm/memory.c",
        (
            "Frames a zap of one VMA: gather what is cleared, clear it, flush the TLB once, free what "
            "nobody uses."
        ),
    ),
    "unmap_page_range": (
        "mm/memory.c",
        "Walks the tables of the range from the top; an empty upper entry skips its span.",
    ),
    "zap_pte_range": (
        "mm/memory.c",
        (
            "Clears the entries of one page table. A raw frame has no struct page: nothing is freed or "
            "uncounted."
        ),
    ),
    "untrack_pfn": (
        "arch/x86/mm/pat/memtype.c",
        (
            "Drops the cache-type reservation of the whole VMA; VM_PAT goes off, even for a partial zap "
            "(up to 6.15)."
        ),
    ),
    "tlb_finish_mmu": (
        "mm/mmu_gather.c",
        "Flushes what was gathered; only then are pages and tables given back.",
    ),
    "flush_tlb_mm_range": (
        "arch/x86/mm/tlb.c",
        (
            "Makes the CPUs forget the cleared translations: page by page up to 33 pages, all of the "
            "process above."
        ),
    ),
    "mmap": ("mm/mmap.c", "A process asks for a mapping."),
    "mmap_region": (
        "mm/mmap.c",
        "Puts the mapping in place: unmaps what was there, joins a neighbour or adds a VMA.",
    ),
    "vma_expand": (
        "mm/mmap.c",
        "The new range is like its neighbour: the neighbour's VMA grows instead of a new one.",
    ),
    "call_mmap": ("mm/mmap.c", "The file's driver is told of the mapping and may fill it at once."),
    "remap_pfn_range": (
        "mm/memory.c",
        (
            "A driver maps consecutive frames by number. No struct page, no reference, no rss; the VMA "
            "becomes VM_PFNMAP."
        ),
    ),
    "io_remap_pfn_range": ("mm/memory.c", "remap_pfn_range for device memory."),
    "remap_pte_range": (
        "mm/memory.c",
        "Writes the entries of one page table: frame number, protection, special bit.",
    ),
    "vm_iomap_memory": ("mm/memory.c", "Maps a device's physical range over the whole VMA, at its offset."),
    "vm_insert_page": (
        "mm/memory.c",
        "A driver maps one page that has a struct page: reference, mapcount and rss go up.",
    ),
    "vmf_insert_pfn": (
        "mm/memory.c",
        "A fault handler maps one raw frame; the access is tried again (VM_FAULT_NOPAGE).",
    ),
    "__p4d_alloc": ("mm/memory.c", "No table here yet: a frame becomes a P4D table."),
    "__pud_alloc": (
        "mm/memory.c",
        "No table here yet: a frame becomes a PUD table, of entries for 1 GiB each.",
    ),
    "__pmd_alloc": (
        "mm/memory.c",
        "No table here yet: a frame becomes a PMD table, of entries for 2 MiB each.",
    ),
    "__pte_alloc": (
        "mm/memory.c",
        "No table here yet: a frame becomes a page table, of entries for 4 KiB each.",
    ),
    "exc_page_fault": ("arch/x86/mm/fault.c", "The CPU found no usable entry and asks the kernel."),
    "handle_mm_fault": ("mm/memory.c", "Finds out what the missing or forbidden page calls for."),
    "do_anonymous_page": (
        "mm/memory.c",
        "Memory without a file: a read maps the shared zero page, a write allocates a zeroed page.",
    ),
    "set_pte_at": ("arch/x86", "Writes an entry."),
    "alloc_zeroed_user_highpage_movable": ("mm/memory.c", "Takes a free frame and fills it with zeros."),
    "do_fault": ("mm/memory.c", "Asks the mapping's own fault handler for the page."),
    "do_read_fault": ("mm/memory.c", "A read of a file's page: map it, and its cached neighbours too."),
    "do_cow_fault": ("mm/memory.c", "A write to a private file page: copy it at once."),
    "do_shared_fault": ("mm/memory.c", "A write to a shared file page: map the page itself."),
    "do_fault_around": ("mm/memory.c", "Maps up to 16 cached pages around the fault, which saves 15 faults."),
    "page_cache_ra_order": ("mm/readahead.c", "The page is not cached: it is read, with its neighbours."),
    "do_wp_page": ("mm/memory.c", "A write to a present but read-only page: reuse it or copy it."),
    "wp_page_reuse": ("mm/memory.c", "Nobody else uses the page: it is made writable in place."),
    "wp_page_copy": ("mm/memory.c", "Others may use the page: the writer gets a copy."),
    "ptep_set_access_flags": ("arch/x86", "Widens an entry's rights; no flush is needed for that."),
    "__anon_vma_prepare": (
        "mm/rmap.c",
        "The VMA's first private page: from now on its pages can be found from their frames.",
    ),
    "munmap": ("mm/mmap.c", "A process gives a range back."),
    "do_mas_align_munmap": (
        "mm/mmap.c",
        "Splits VMAs at the ends, takes those between out, then clears their entries.",
    ),
    "vma_merge": ("mm/mmap.c", "The changed range is like its neighbours: they become one VMA."),
    "__split_vma": ("mm/mmap.c", "One VMA becomes two; no entry changes."),
    "unmap_region": (
        "mm/mmap.c",
        "Clears the entries of the VMAs that go, and frees tables that nobody needs.",
    ),
    "free_pgtables": ("mm/memory.c", "A table is freed when no surviving neighbour reaches into its span."),
    "free_pte_range": ("mm/memory.c", "Unhooks an empty page table; its frame goes back after the flush."),
    "free_pmd_range": ("mm/memory.c", "Unhooks an empty PMD table."),
    "free_pud_range": ("mm/memory.c", "Unhooks an empty PUD table."),
    "free_unref_page": ("mm/page_alloc.c", "Gives a frame back to the buddy allocator."),
    "shmem_evict_inode": ("mm/shmem.c", "Nobody uses the memory file any more: its pages are freed."),
    "put_page": ("mm/swap.c", "Drops one reference; the last one frees the page."),
    "mprotect": ("mm/mprotect.c", "A process changes what it may do with a range."),
    "mprotect_fixup": (
        "mm/mprotect.c",
        "One VMA of the range: limits and charge, then joined or split, then its entries follow.",
    ),
    "change_protection": ("mm/mprotect.c", "Walks the tables of the range; what is not mapped is skipped."),
    "change_pte_range": (
        "mm/mprotect.c",
        "Rewrites the rights in the entries of one page table; frame, A, D and software bits stay.",
    ),
    "mremap": ("mm/mremap.c", "A process makes a mapping longer or shorter, or moves it."),
    "move_vma": ("mm/mremap.c", "A VMA at the new place, the entries follow, the old one goes."),
    "move_page_tables": (
        "mm/mremap.c",
        "Walks the old range; whole tables move with one write where both places are aligned alike.",
    ),
    "move_ptes": ("mm/mremap.c", "Moves the entries of one page table; they count as soft-dirty."),
    "move_normal_pmd": ("mm/mremap.c", "A whole page table changes its parent: one entry for 2 MiB."),
    "move_normal_pud": ("mm/mremap.c", "A whole PMD table changes its parent: one entry for 1 GiB."),
    "madvise": ("mm/madvise.c", "A process tells how it is going to use a range."),
    "do_madvise": ("mm/madvise.c", "Checks the range, then visits each VMA in it; holes are reported last."),
    "madvise_update_vma": ("mm/madvise.c", "The advice is a flag: the range is joined or split."),
    "mlock": ("mm/mlock.c", "A process wants a range to stay in memory."),
    "mlock2": ("mm/mlock.c", "A process wants a range to stay in memory, perhaps only from its first touch."),
    "munlock": ("mm/mlock.c", "A process lets a range be reclaimed again."),
    "mlockall": ("mm/mlock.c", "A process locks all that it has mapped, or will."),
    "munlockall": ("mm/mlock.c", "A process unlocks everything."),
    "mlock_fixup": ("mm/mlock.c", "One VMA of the range gets its lock flags: joined or split."),
    "mlock_vma_pages_range": ("mm/mlock.c", "The pages that are mapped already are locked or unlocked."),
    "mlock_pte_range": ("mm/mlock.c", "Pages of one page table move to or from the unevictable list."),
    "mlock_vma_page": ("mm/mlock.c", "A page mapped by a locked VMA becomes unevictable."),
    "munlock_vma_page": ("mm/mlock.c", "A locked VMA lets a page go; the last one makes it evictable."),
    "mincore": ("mm/mincore.c", "Tells for each page of a range whether it is in memory."),
    "msync": ("mm/msync.c", "Writes back what shared mappings have changed."),
    "vfs_fsync_range": ("fs/sync.c", "The file writes its dirty pages."),
    "page_mkclean": ("mm/rmap.c", "Entries become clean and read-only, so that the next write is noticed."),
    "remap_file_pages": ("mm/mmap.c", "An old call: nowadays an mmap over part of a shared mapping."),
    "setrlimit": ("kernel/sys.c", "A limit of the process changes; what exceeds it already stays."),
    "sysctl": ("kernel/sysctl.c", "A setting of the whole machine changes."),
    "capset": ("kernel/capability.c", "The process gives up capabilities."),
    "set_page_dirty": ("mm/page-writeback.c", "The page counts as written."),
    "mark_page_accessed": (
        "mm/folio-compat.c",
        "The page was used: the first time it is marked as referenced, the second time it becomes active.",
    ),
    "brk": ("mm/mmap.c", "Moves the end of the heap."),
    "expand_downwards": ("mm/mmap.c", "The stack grows to the touched page, if the guard gap below allows."),
    "begin_new_exec": ("fs/exec.c", "The old program's memory goes; a fresh address space takes its place."),
    "load_elf_binary": ("fs/binfmt_elf.c", "A program is mapped and its stack is filled."),
    "fork": ("kernel/fork.c", "A process makes a copy of itself: its VMAs, its descriptors, not its pages."),
    "dup_mm": ("kernel/fork.c", "The child gets an address space like the parent's."),
    "dup_mmap": (
        "kernel/fork.c",
        "Copies VMA by VMA, left out where it is DONTFORK; the parent's TLB is flushed once at the end.",
    ),
    "anon_vma_fork": (
        "mm/rmap.c",
        "The copied VMA gets an anon_vma of its own, linked to all those of its ancestors.",
    ),
    "copy_page_range": (
        "mm/memory.c",
        "Copies the entries that a fault could not bring back, with tables wherever the parent has them.",
    ),
    "copy_present_pte": (
        "mm/memory.c",
        "One more mapping of the same page; a private one is write-protected in both: a write will copy.",
    ),
    "copy_nonpresent_pte": ("mm/memory.c", "One more entry names the slot in swap."),
    "page_move_anon_rmap": ("mm/rmap.c", "The last process that uses the page owns it from now on."),
    "fault_dirty_shared_page": ("mm/memory.c", "The file's page will differ from what is on disk."),
    "do_exit": ("kernel/exit.c", "A process ends."),
    "exit_mmap": ("mm/mmap.c", "Takes the whole address space down: entries, tables, VMAs, the root."),
    "wait4": ("kernel/exit.c", "The parent takes note of a child's end; only now its number is free."),
    "ftruncate": ("fs/open.c", "A process sets the size of a file."),
    "fallocate": ("fs/open.c", "A process gives part of a file's storage back; the file's size stays."),
    "shmem_fallocate": ("mm/shmem.c", "Punches a hole: the pages go, and so do all shared mappings of them."),
    "unmap_mapping_range": (
        "mm/memory.c",
        "Clears what maps a range of a file, in every process; private copies only where the caller says so.",
    ),
    "truncate_inode_pages_range": ("mm/truncate.c", "Takes pages of a file out of the page cache."),
    "free_swap_and_cache": ("mm/swapfile.c", "A swap entry is given up; its slot loses a use."),
    "madvise_free_pte_range": (
        "mm/madvise.c",
        "Pages become clean, old and lazyfree: reclaim may drop them unless they are written again.",
    ),
    "deactivate_page": ("mm/swap.c", "The page counts as old; it will be among the first to be reclaimed."),
    "reclaim_pages": ("mm/vmscan.c", "Reclaims pages now, as if memory were short."),
    "swap_writepage": ("mm/page_io.c", "An anonymous page goes to a swap slot; its entry names the slot."),
    "swap_readpage": ("mm/page_io.c", "A page comes back from its slot, which nobody else names."),
    "folio_set_swapbacked": ("mm/vmscan.c", "A lazyfree page was written again: it must be kept after all."),
    "do_swap_page": ("mm/memory.c", "The page is in swap: find it in the swap cache or read it back."),
    "copy_from_user": ("lib/usercopy.c", "The kernel reads memory of the process; a bad address is EFAULT."),
    "clear_user": ("arch/x86/lib/usercopy_64.c", "The kernel writes zeros to memory of the process."),
    "process_vm_readv": ("mm/process_vm_access.c", "Takes the pages themselves, not what the entries allow."),
    "clear_refs_write": ("fs/proc/task_mmu.c", "A tool resets what the entries remember of past accesses."),
    "clear_refs_pte_range": (
        "fs/proc/task_mmu.c",
        "Clears the accessed or soft-dirty bits of one page table.",
    ),
    "swap_range_free": ("mm/swapfile.c", "No entry names the slots any more: what they hold is forgotten."),
    "mmu_set_bits": ("hardware", "The CPU marks entries as accessed, and as dirty on a write."),
    "__mm_populate": ("mm/gup.c", "MAP_POPULATE: the pages are faulted in now, not when they are touched."),
    "alloc_page": ("mm/page_alloc.c", "A driver takes a frame of RAM for itself; it holds the reference."),
    "store": ("hardware", "The CPU writes the bytes."),
    "hugetlb_fault": ("mm/hugetlb.c", "A touch of a mapping of huge pages from the pool."),
    "hugetlb_no_page": (
        "mm/hugetlb.c",
        "A first touch takes a huge page from the pool, or the file's if it has one.",
    ),
    "hugetlb_wp": (
        "mm/hugetlb.c",
        "A write to a read-only huge page: reuse it, or copy it to another one of the pool.",
    ),
    "clear_huge_page": ("mm/memory.c", "A huge page from the pool is zeroed for its new owner."),
    "copy_user_huge_page": ("mm/memory.c", "A huge page is copied."),
    "free_huge_page": ("mm/hugetlb.c", "A huge page goes back to the pool, not to the buddy allocator."),
    "__unmap_hugepage_range": ("mm/hugetlb.c", "Clears the huge entries of a range."),
    "hugetlb_change_protection": ("mm/hugetlb.c", "A huge entry of the pool gets the new protection."),
    "move_hugetlb_page_tables": ("mm/hugetlb.c", "Huge entries of the pool move to their new addresses."),
    "copy_hugetlb_page_range": ("mm/hugetlb.c", "Fork shares a huge page of the pool, read-only in both."),
    "enabled_store": ("mm/huge_memory.c", "Somebody writes who is to get transparent huge pages."),
    "do_huge_pmd_anonymous_page": (
        "mm/huge_memory.c",
        "A first touch gets 2 MiB behind one entry; a table is kept for the day it is split.",
    ),
    "prep_compound_page": ("mm/page_alloc.c", "Makes 512 frames one page: the first speaks for all."),
    "free_compound_page": (
        "mm/page_alloc.c",
        "Nobody holds any part of the compound page: all of it is free.",
    ),
    "do_huge_pmd_wp_page": (
        "mm/huge_memory.c",
        "A write to a read-only huge page: reuse it if it is the writer's own, else split and copy 4 KiB.",
    ),
    "__split_huge_pmd": (
        "mm/huge_memory.c",
        "One huge entry becomes a table of 512 small ones; the page behind them stays one page.",
    ),
    "__split_huge_pmd_locked": ("mm/huge_memory.c", "Fills the table that was kept for the huge entry."),
    "split_huge_page_to_list": (
        "mm/huge_memory.c",
        "A compound page becomes 512 pages; those that nobody maps are freed.",
    ),
    "__split_huge_page_tail": (
        "mm/huge_memory.c",
        "Each part becomes a page of its own, with the head's flags.",
    ),
    "try_to_map_unused_to_zeropage": (
        "mm/migrate.c",
        "A small page of zeros is given up when its huge page is taken apart; the zero page takes its place.",
    ),
    "remove_migration_pte": ("mm/migrate.c", "An entry comes back after its page was taken apart or moved."),
    "zap_huge_pmd": ("mm/huge_memory.c", "Clears a whole huge entry; its page and the table kept for it go."),
    "change_huge_pmd": ("mm/huge_memory.c", "A huge entry gets the new protection as a whole."),
    "move_huge_pmd": ("mm/huge_memory.c", "A huge entry moves as a whole, with the table kept for it."),
    "copy_huge_pmd": ("mm/huge_memory.c", "Fork shares a huge page: read-only in both until one writes."),
    "madvise_free_huge_pmd": ("mm/huge_memory.c", "A huge page becomes clean, old and lazyfree as a whole."),
    "collapse_huge_page": (
        "mm/khugepaged.c",
        "Small pages are copied into one huge page, which then takes their place.",
    ),
    "prctl_set_mm": (
        "kernel/sys.c",
        "Moves the recorded ends of the heap; nothing is mapped or unmapped by it.",
    ),
    "__collapse_huge_page_copy": ("mm/khugepaged.c", "Copies the small pages; holes become zeros."),
}

_TRACEPOINTS: dict[str, tuple[str, str]] = {
    "page_fault_user": (
        "arch/x86/include/asm/trace/exceptions.h",
        "The processor found no fitting entry and calls the kernel: who touched what, and how.",
    ),
    "mm_page_alloc": ("include/trace/events/kmem.h", "The buddy allocator hands out a block of frames."),
    "mm_page_free": ("include/trace/events/kmem.h", "A block of frames goes back to the buddy allocator."),
    "mm_filemap_add_to_page_cache": (
        "include/trace/events/filemap.h",
        "A page becomes part of a file's page cache: whoever maps the file now shares it.",
    ),
    "tlb_flush": (
        "include/trace/events/tlb.h",
        "Translations that a processor may still hold are thrown away, singly or all.",
    ),
    "sched_process_fork": (
        "include/trace/events/sched.h",
        "A process has a child with a copy of its memory.",
    ),
    "sched_process_exec": ("include/trace/events/sched.h", "A process runs another program in fresh memory."),
}

EXPLAINED = {name: Explained(*text) for name, text in (_FUNCTIONS | _TRACEPOINTS).items()}


def explain(func: str) -> Explained:
    """What is known of a function or a tracepoint; an empty sentence when nothing is.

    >>> explain("zap_pte_range").file
    'mm/memory.c'
    """
    return EXPLAINED.get(func, Explained("", ""))
