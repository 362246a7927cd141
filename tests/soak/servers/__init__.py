"""The programs of the servers of the soak, and the proxies before them."""
