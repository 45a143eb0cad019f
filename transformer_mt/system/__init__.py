"""What knows nothing of translation: lines of files, whole files and directories, locks, processes, devices, ranks."""
