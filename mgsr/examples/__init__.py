"""Other people's losses as ordinary user files: the configuration names them as `module:name`, nothing else knows them."""
