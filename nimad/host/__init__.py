"""The host: memory, cgroups, pages, disks and file systems; whose files these are and as whom we work."""
