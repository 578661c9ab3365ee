"""What the load is made of: remote servers in one thread, their ledger, and locust around them."""
