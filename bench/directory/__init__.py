"""The directory of a large network, simulated: the real DHT nodes, announcers and peer tables in one process."""
