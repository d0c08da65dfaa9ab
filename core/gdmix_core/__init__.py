"""The GDMix library: everything the roles share, with no network service in it."""
