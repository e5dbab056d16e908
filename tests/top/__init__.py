"""`pagecache top`: its reader, its figures, its screens, and the program in a real terminal."""
