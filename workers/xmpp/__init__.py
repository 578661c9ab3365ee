"""The sans-I/O XMPP core: bytes and times go in, events and bytes come out. No sockets, no clock."""
