"""The programs of the servers in the soak test, and the proxies in front of them."""
