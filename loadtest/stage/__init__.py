"""The stage: real Prosody, ejabberd, gateways, DNS and a test CA on loopback addresses."""
