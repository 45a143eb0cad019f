"""The web server of `tmt serve`: LibreTranslate's interface, with the requests of all clients batched together."""
