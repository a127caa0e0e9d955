"""Says whom a newcomer joins through: addresses as they are given, or from a web page, a domain or an invitation"""
