"""The sans-I/O XMPP core: bytes and times in, events and bytes out. No sockets, no clock."""
