"""Every result tested against simulation on fresh worlds."""
