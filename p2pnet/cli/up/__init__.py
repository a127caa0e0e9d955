"""`p2pnet up`: all of it on one machine, each part by the command that one would type"""
